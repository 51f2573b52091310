"""What all ONNX files have, whoever wrote them: names, metadata, standard operators."""

import pathlib
from collections.abc import Iterator
from typing import Any

from keras_spm.export.errors import ExportError
from keras_spm.export.quantization import quantize_onnx
from keras_spm.export.request import Request
from keras_spm.export.served import INPUT

_OWN_DOMAINS = ("", "ai.onnx")


def finish(request: Request, path: pathlib.Path) -> None:
    """Names inputs and outputs, adds metadata, and checks a file.

    Raises:
        ExportError: if it has operators that are not ONNX's own.
    """
    import onnx

    model = onnx.load(path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    _rename(graph, {graph.input[0].name: INPUT, **_output_names(graph, request.served.names)})
    _name_sizes(graph.input[0], request)
    onnx.helper.set_model_props(model, request.metadata_strings)
    model.doc_string = ""
    foreign = {node.domain for node in _nodes(graph)} - set(_OWN_DOMAINS)
    if foreign:
        raise ExportError(f"Operators that are not ONNX's own: {', '.join(sorted(foreign))}")
    opsets = [each for each in model.opset_import if each.domain in _OWN_DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    if request.calibration is not None:
        quantize_onnx(path, request.calibration_batches)


def _output_names(graph, names):
    # Every backend sorts the names of a dict of outputs.
    return {each.name: name for each, name in zip(graph.output, names, strict=True)}


def _name_sizes(images, request):
    dims = images.type.tensor_type.shape.dim
    for dim, name, size in zip(dims, request.size_names, request.spec.shape, strict=True):
        if size is None:
            dim.dim_param = name


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph and of the graphs in them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _rename(graph, names):
    """Renames values of a graph, {old name: new name}, also where inner graphs use them."""
    used = {name for node in _nodes(graph) for name in (*node.input, *node.output)}
    clashes = (used & set(names.values())) - set(names)
    names = {**names, **{name: f"{name}_value" for name in clashes}}
    graphs = [graph]
    for node in _nodes(graph):
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        graphs += [inner for each in node.attribute for inner in (each.g, *each.graphs)]
    for each in graphs:
        for value in (*each.input, *each.output, *each.initializer, *each.value_info):
            value.name = names.get(value.name, value.name)
