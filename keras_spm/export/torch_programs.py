"""Programs of `torch.export`, and ONNX files from them."""

import json
import pathlib
import warnings
from typing import Any

from keras_spm.export import onnx_files
from keras_spm.export.files import METADATA
from keras_spm.export.request import SMALLEST, Request
from keras_spm.export.served import INPUT

_NO_SIDE_OF_1 = 129  # Of level P7, of stride 128.


def write_program(request: Request, path: pathlib.Path) -> None:
    """Writes a `.pt2` file."""
    import torch

    program = _for_any_size(_program(request, **request.options), request)
    extra_files = {METADATA: json.dumps(request.metadata)}
    torch.export.save(program, path, extra_files=extra_files)


def write_onnx(request: Request, path: pathlib.Path) -> None:
    """Writes a `.onnx` file."""
    import onnxscript  # noqa: F401  PyTorch needs it, after minutes of tracing.
    import torch

    program = _program(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _sort},
            **request.options,
        )
    exported.save(path)
    onnx_files.finish(request, path)


def _for_any_size(program: Any, request: Request) -> Any:
    """Removes what PyTorch asserts of sizes because the program was traced with large images."""
    import torch
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    (images,) = (node for node in graph.nodes if node.op == "placeholder" and node.name == INPUT)
    for axis in request.unknown_sizes.values():
        symbol = images.meta["val"].shape[axis].node.expr
        program.range_constraints[symbol] = ValueRanges(SMALLEST, int_oo)
    program._guards_code.clear()
    return program


def _sort(
    values: Any, stable: bool = True, dim: int = -1, descending: bool = False
) -> tuple[Any, Any]:
    """A stable sort as TopK, where the lower of two equal values' indices comes first."""
    from onnxscript import opset18

    count = opset18.Gather(opset18.Shape(values), opset18.Constant(value_ints=[dim]))
    return opset18.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def _program(request: Request, **options: Any) -> Any:
    """Returns the `ExportedProgram`, for images of any number and size."""
    import torch

    class Served(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.served = request.served

        def forward(self, images):
            return self.served(images)

    # From this size on, no map has a side of 1, which PyTorch treats as a case of its own.
    dims = {
        axis: torch.export.Dim(name, min=_NO_SIDE_OF_1)
        for name, axis in request.unknown_sizes.items()
    }
    if request.spec.shape[0] is None:
        dims[0] = torch.export.Dim("batch", min=1)
    images = torch.zeros(request.sample_shape, dtype=getattr(torch, request.spec.dtype))
    # Otherwise an inner map that is wider than 1 in the sample would have to be so always.
    any_size = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with warnings.catch_warnings(), torch.no_grad(), any_size:
        warnings.simplefilter("ignore")
        return torch.export.export(
            Served().eval(),
            (images,),
            dynamic_shapes={"images": dims},
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
            **options,
        )
