"""Comparison of an exported file with the model, in the file's own runtime."""

import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.export.errors import ExportError
from keras_spm.export.files import atomic_export
from keras_spm.export.mixin import input_spec
from keras_spm.export.request import data_format_of
from keras_spm.export.served import ServedModel
from keras_spm.types import PathLike

# (batch, height, width) of the images: two sizes that no stride divides, and three batches.
SHAPES = ((1, 64, 64), (2, 65, 47), (3, 33, 32), (1, 256, 320))
_SCRIPT = pathlib.Path(__file__).with_name("run_exported.py")
_LAST_LINES = 3
_CLASS_SCORES = ("logits", "probabilities")
_INT8_IMAGES = 64  # That are compared.


def verify(
    model: keras.Model,
    filepath: PathLike,
    format: str,
    input_signature: Sequence[keras.InputSpec] | None = None,
    raw_outputs: bool = False,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    seed: int = 0,
    include_preprocessing: bool = False,
) -> float:
    """Runs an exported file in a new process, without this package, and compares its outputs.

    Args:
        model: task or backbone that was exported.
        filepath, format, input_signature, raw_outputs, include_preprocessing: as in its `export`.
        shapes: (batch, height, width) of the random images; sizes that the file fixes are
            replaced.
        seed: int, of the images.

    Returns:
        The largest absolute difference of an output, divided by the largest value of that output
        if that is above 1.

    Raises:
        ExportError: if the runtime fails, or an output is missing, or has another shape.
    """
    spec = input_spec(model, input_signature)
    generator = np.random.default_rng(seed)
    batches = [_images(model, spec, shape, generator) for shape in dict.fromkeys(shapes)]
    served = ServedModel(model, raw_outputs, include_preprocessing)
    pairs = _outputs(served, filepath, format, batches)
    return max(_difference(*pair) for pair in pairs)


def verify_int8(
    model: keras.Model,
    filepath: PathLike,
    format: str,
    batches: Sequence[np.ndarray],
    raw_outputs: bool = False,
    include_preprocessing: bool = False,
) -> tuple[float | None, float]:
    """Compares a file in int8 with the model in float32, as `verify` does.

    Args:
        model, filepath, format, raw_outputs, include_preprocessing: as in `verify`.
        batches: images as the file takes them.

    Returns:
        (agreement, difference): the share of images, or pixels, with the same most probable
        class, `None` for outputs that are not of classes; and the result of `verify`.
    """
    served = ServedModel(model, raw_outputs, include_preprocessing)
    differences, agreements = [], []
    for name, values, expected in _outputs(served, filepath, format, batches):
        differences.append(_difference(name, values, expected))
        if name in _CLASS_SCORES:
            agreements.append((values.argmax(-1) == expected.argmax(-1)).mean())
    return float(np.mean(agreements)) if agreements else None, max(differences)


def _outputs(served, filepath, format, batches):
    """Yields (name, array of the file, array of the model) for each batch and output."""
    batches = list(batches)
    for batch, outputs in zip(batches, _run(filepath, format, batches), strict=True):
        expected = {name: keras.ops.convert_to_numpy(each) for name, each in served(batch).items()}
        if set(outputs) != set(expected):
            raise ExportError(f"The outputs are {sorted(outputs)}, not {sorted(expected)}.")
        for name, values in expected.items():
            yield name, outputs[name], values


def _images(model, spec, shape, generator):
    channels_first = data_format_of(model) == "channels_first"
    axes = (0, 2, 3) if channels_first else (0, 1, 2)
    sizes = list(spec.shape)
    for axis, size in zip(axes, shape, strict=True):
        sizes[axis] = size if sizes[axis] is None else sizes[axis]
    return generator.integers(0, 256, sizes).astype(spec.dtype)


def _run(filepath, format, batches):
    """Returns {name: array} for each batch."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = (pathlib.Path(folder, name) for name in ("in.npz", "out.npz"))
        np.savez(inputs, **{str(number): batch for number, batch in enumerate(batches)})
        # -I: modules of this package or of the working directory are not found by name.
        command = [sys.executable, "-I", _SCRIPT, format, filepath, inputs, outputs]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.strip().splitlines()[-_LAST_LINES:]
            raise ExportError(f"The exported file does not run: {' '.join(lines)}")
        with np.load(outputs) as arrays:
            results = [{} for _ in batches]
            for key, array in arrays.items():
                number, name = key.split("/")
                results[int(number)][name] = array
    return results


def _difference(name, values, expected):
    if values.shape != expected.shape:
        raise ExportError(f"{name} is {values.shape}, not {expected.shape}.")
    values, expected = values.astype("float64"), expected.astype("float64")
    scale = max(np.abs(expected).max(initial=0), 1)
    difference = float(np.abs(values - expected).max(initial=0) / scale)
    return difference if np.isfinite(difference) else np.inf


def export_verified(
    model: keras.Model,
    filepath: PathLike,
    format: str,
    dtype: str = "float32",
    raw_outputs: bool = False,
    tolerance: float = 1e-4,
    include_preprocessing: bool = False,
) -> float:
    """Exports a model, and keeps the file only if its runtime computes what the model does.

    Args:
        model: task or backbone.
        filepath, format, raw_outputs, include_preprocessing: as in its `export`.
        dtype: of the images.
        tolerance: float, largest value of `verify`.

    Returns:
        The result of `verify`.

    Raises:
        ExportError: if it is above the tolerance, or as in `verify`.
        ValueError: as in `export`.
    """
    signature = [keras.InputSpec(dtype=dtype, shape=model.input.shape)]
    with atomic_export(filepath) as temporary:
        model.export(temporary, format, False, signature, raw_outputs, include_preprocessing)
        difference = verify(
            *(model, temporary, format, signature, raw_outputs),
            include_preprocessing=include_preprocessing,
        )
        if not difference <= tolerance:
            raise ExportError(
                f"The exported model differs by {difference:.2g}, more than the tolerance, "
                f"{tolerance:g}: {filepath} was not written."
            )
    return difference


def export_int8(
    model: keras.Model,
    filepath: PathLike,
    format: str,
    calibration: Any,
    dtype: str = "float32",
    raw_outputs: bool = False,
    include_preprocessing: bool = False,
) -> tuple[float | None, float]:
    """Exports a model that computes in int8, and keeps the file only if its runtime runs it.

    Args:
        model, filepath, format, calibration, raw_outputs, include_preprocessing: as in `export`.
        dtype: of the images.

    Returns:
        The result of `verify_int8` for the first of the calibration's images.

    Raises:
        ExportError: if the outputs are not finite, or as in `verify`.
        ValueError: as in `export`.
    """
    signature = [keras.InputSpec(dtype=dtype, shape=model.input.shape)]
    options = {"raw_outputs": raw_outputs, "include_preprocessing": include_preprocessing}
    with atomic_export(filepath) as temporary:
        model.export(temporary, format, False, signature, calibration=calibration, **options)
        batches = model.calibration_batches(calibration, include_preprocessing)[:_INT8_IMAGES]
        batches = [batch.astype(dtype) for batch in batches]
        agreement, difference = verify_int8(model, temporary, format, batches, **options)
        if not np.isfinite(difference):
            raise ExportError(f"The exported model is not finite: {filepath} was not written.")
    return agreement, difference
