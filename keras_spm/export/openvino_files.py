"""OpenVINO's files, by way of ONNX, which it reads from every backend."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_spm.export.quantization import quantize_onnx
from keras_spm.export.request import Request

_CHANNELS_LAST = [0, 2, 3, 1]
_FLAT_SHAPE = "flat_shape"


def openvino_writer(
    write_onnx: Callable[[Request, pathlib.Path], None],
) -> Callable[[Request, pathlib.Path], None]:
    """Returns the function (request, path) that writes a file.

    Args:
        write_onnx: function (request, path) that writes ONNX on the backend.
    """

    def write(request: Request, path: pathlib.Path) -> None:
        import onnx
        import openvino

        onnx_path = path.with_suffix(".onnx")
        write_onnx(dataclasses.replace(request, calibration=None), onnx_path)
        model = onnx.load(onnx_path)
        flatten_before_transposing(model.graph)
        onnx.save(model, onnx_path)
        if request.calibration is not None:
            quantize_onnx(onnx_path, request.calibration_batches)
        model = openvino.convert_model(onnx_path)
        for name, value in request.metadata_strings.items():
            model.set_rt_info(value, ["model_info", name])
        openvino.save_model(model, path, compress_to_fp16=False)
        onnx_path.unlink()

    return write


def flatten_before_transposing(graph: Any) -> None:
    """Changes how maps of convolutions become tokens in an ONNX graph, but not the values.

    A transposition from (batch, channels, height, width) to (batch, height, width, channels) that
    is reshaped afterwards becomes one of (batch, channels, height * width), and GELU goes before
    it. OpenVINO makes GELU a part of the convolution, and otherwise moves the maps twice.
    """
    from onnx import helper, numpy_helper

    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[Any]] = {each.name: [None] for each in graph.output}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)

    def is_reshaped(node, name):
        if node is None or node.op_type != "Reshape" or node.input[0] != name:
            return False
        # A zero means the size of the input there.
        return 0 not in constants.get(node.input[1], np.ones(1))[1:]

    nodes = []
    for node in graph.node:
        name, *_ = node.output
        source = producers.get(node.input[0]) if node.input else None
        is_gelu = node.op_type == "Gelu" and _is_channels_last(source)
        transpose = source if is_gelu else node
        found = consumers.get(name, [])
        if (
            not _is_channels_last(transpose)
            or not found
            or not all(is_reshaped(each, name) for each in found)
            or (is_gelu and len(consumers[source.output[0]]) > 1)
        ):
            nodes.append(node)
            continue
        (maps,) = transpose.input
        if is_gelu:
            nodes.remove(source)
            nodes.append(helper.make_node("Gelu", [maps], [f"{name}_maps"]))
            nodes[-1].attribute.extend(node.attribute)
            maps = f"{name}_maps"
        nodes.append(helper.make_node("Reshape", [maps, _FLAT_SHAPE], [f"{name}_flat"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_flat"], [name], perm=[0, 2, 1]))
    if len(nodes) > len(graph.node):
        flat_shape = np.array([0, 0, -1], "int64")
        graph.initializer.append(numpy_helper.from_array(flat_shape, _FLAT_SHAPE))
        del graph.value_info[:]  # Sizes of values that are others now.
        del graph.node[:]
        graph.node.extend(nodes)


def _is_channels_last(node):
    if node is None or node.op_type != "Transpose":
        return False
    return [list(each.ints) for each in node.attribute if each.name == "perm"] == [_CHANNELS_LAST]
