"""Programs of `torch.export`, and ONNX files from them."""

import json
import pathlib
import warnings
from typing import Any

from keras_spm.export import onnx_files
from keras_spm.export.files import METADATA
from keras_spm.export.request import SMALLEST, Request


def write_program(request: Request, path: pathlib.Path) -> None:
    """Writes a `.pt2` file."""
    import torch

    program = _program(request, **request.options)
    extra_files = {METADATA: json.dumps(request.metadata)}
    torch.export.save(program, path, extra_files=extra_files)


def write_onnx(request: Request, path: pathlib.Path) -> None:
    """Writes a `.onnx` file."""
    import torch

    program = _program(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, optimize=True, **request.options
        )
    exported.save(path)
    onnx_files.finish(request, path)


def _program(request: Request, **options: Any) -> Any:
    """Returns the `ExportedProgram`, for images of any number and size."""
    import torch

    class Served(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.served = request.served

        def forward(self, images):
            return self.served(images)

    dims = {
        axis: torch.export.Dim(name, min=SMALLEST) for name, axis in request.unknown_sizes.items()
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
