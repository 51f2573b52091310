"""The formats of `export`: which backend writes which, and how."""

import dataclasses
import pathlib
from collections.abc import Callable

import keras

from keras_spm.export import litert_files, onnx_files, saved_models, torch_programs
from keras_spm.export.files import write_metadata
from keras_spm.export.openvino_files import openvino_writer
from keras_spm.export.request import SMALLEST, Request
from keras_spm.registry import lookup
from keras_spm.types import PathLike

Writer = Callable[[Request, pathlib.Path], None]


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that an exported model can have.

    Attributes:
        suffix: of the file's name; empty for a folder.
        writers: {backend: function (request, path)}.
        has_int8: whether a file can compute in int8.
    """

    suffix: str
    writers: dict[str, Writer]
    has_int8: bool = False


def find_writer(name: str, path: PathLike) -> Writer:
    """Returns the function that writes a format on this backend.

    Raises:
        ValueError: for an unknown format, one that this backend does not write, or a path with
            another suffix.
    """
    found = lookup("format", name, FORMATS)
    backend = keras.config.backend()
    if backend not in found.writers:
        others = " or ".join(found.writers)
        raise ValueError(
            f"`format` {name!r} cannot be written on the {backend} backend. Save the model as a "
            f".keras file and export it with KERAS_BACKEND={others}."
        )
    if pathlib.Path(path).suffix != found.suffix and found.suffix:
        raise ValueError(f"`filepath` must end in {found.suffix}. Received: filepath={path}")
    return found.writers[backend]


def check_int8(name: str) -> None:
    """Raises `ValueError` for a format that is not written in int8."""
    if not FORMATS[name].has_int8:
        supported = ", ".join(repr(each) for each, found in FORMATS.items() if found.has_int8)
        raise ValueError(
            f"`calibration`, for int8, needs one of the formats {supported}. "
            f"Received: format={name!r}"
        )


def _tensorflow_onnx(request, path):
    request.write_by_keras(path, "onnx", request.options)
    onnx_files.finish(request, path)


def _stablehlo(request, path):
    import jax

    shape = [
        name if size is None else str(size)
        for name, size in zip(request.size_names, request.spec.shape, strict=True)
    ]
    constraints = [f"{name} >= {SMALLEST}" for name in ("height", "width") if name in shape]
    shape = jax.export.symbolic_shape(", ".join(shape), constraints=constraints)
    images = jax.ShapeDtypeStruct(shape, request.spec.dtype)
    options = {"platforms": ("cpu", "cuda", "tpu"), **request.options}
    exported = jax.export.export(jax.jit(request.served), **options)(images)
    path.write_bytes(exported.serialize())
    write_metadata(path.with_name(f"{path.name}.json"), request.metadata)


_WRITE_ONNX = {"tensorflow": _tensorflow_onnx, "torch": torch_programs.write_onnx}

FORMATS = {
    # JAX's programs have operations that TensorFlow's older version of StableHLO cannot read.
    "tf_saved_model": Format("", {"tensorflow": saved_models.write_saved_model}),
    "onnx": Format(".onnx", _WRITE_ONNX, has_int8=True),
    "openvino": Format(
        ".xml", {name: openvino_writer(write) for name, write in _WRITE_ONNX.items()}, has_int8=True
    ),
    "litert": Format(".tflite", {"tensorflow": litert_files.write_litert}, has_int8=True),
    "torch": Format(".pt2", {"torch": torch_programs.write_program}),
    "stablehlo": Format(".stablehlo", {"jax": _stablehlo}),
}
