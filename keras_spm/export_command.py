"""The command `keras-spm export`."""

import argparse
import pathlib

from keras_spm import trainer
from keras_spm.converters import to_torch_state_dict
from keras_spm.export import FORMATS, check_int8, export_int8, export_verified, find_writer
from keras_spm.files import check_writable
from keras_spm.fusion import fuse
from keras_spm.registry import lookup
from keras_spm.terminal import printable
from keras_spm.weights.formats import write_safetensors

_TORCH_WEIGHTS = "torch-weights"
# Suffix of a target → format.
_SUFFIXES = {each.suffix or "none": name for name, each in FORMATS.items()}
_SUFFIXES[".safetensors"] = _TORCH_WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments after the model."""
    add = parser.add_argument
    text = f"file to write; suffixes: {', '.join(_SUFFIXES)} (folder of a TensorFlow SavedModel)"
    add("target", type=pathlib.Path, help=text)
    text = f"{', '.join(FORMATS)}, or {_TORCH_WEIGHTS} for PyTorch; by default that of the suffix"
    add("--format", metavar="FORMAT", help=text)
    text = f"of {_TORCH_WEIGHTS}, names of the weights: official (default), timm or transformers"
    add("--layout", default="official", help=text)
    text = "export what a detector computes before non-maximum suppression"
    add("--raw-outputs", action="store_true", help=text)
    text = "fold batch normalizations first, see keras_spm.fuse"
    add("--fuse", action="store_true", help=text)
    text = "resize and crop images inside the file, as the classifier's preprocessing does"
    add("--include-preprocessing", action="store_true", help=text)
    add("--int8", action="store_true", help="compute in int8; needs --calibration")
    text = "folder of images whose values give the ranges of int8"
    add("--calibration", metavar="FOLDER", help=text)
    text = "dtype of the pixels: float32 (default) or uint8"
    add("--dtype", default="float32", choices=["float32", "uint8"], help=text)
    text = "largest difference to the model, as a share of an output's largest value; 1e-4"
    add("--tolerance", type=float, default=1e-4, help=text)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    name = options.format or lookup("suffix", options.target.suffix or "none", _SUFFIXES)
    if name == _TORCH_WEIGHTS:
        _write_torch_weights(options)
        return
    find_writer(name, options.target)  # Refuses before the model is loaded.
    if options.int8 != (options.calibration is not None):
        raise ValueError("`--int8` and `--calibration` must be given together.")
    if options.int8:
        check_int8(name)
    if FORMATS[name].suffix:
        check_writable(options.target)
    model = _load_model(options.model)
    model = fuse(model) if options.fuse else model
    arguments = {
        "dtype": options.dtype,
        "raw_outputs": options.raw_outputs,
        "include_preprocessing": options.include_preprocessing,
    }
    if options.int8:
        result = export_int8(model, options.target, name, options.calibration, **arguments)
        agreement, difference = result
        written = "written in int8"
        if agreement is not None:
            written += f"; same class as in float32: {agreement:.1%}"
    else:
        difference = export_verified(
            model, options.target, name, tolerance=options.tolerance, **arguments
        )
        written = "written"
    print(printable(f"{options.target} {written}; largest difference {difference:.2g}"))


def _write_torch_weights(options):
    check_writable(options.target)
    state = to_torch_state_dict(_load_model(options.model), options.layout)
    write_safetensors(options.target, state)
    text = f"{len(state)} tensors written to {options.target} ({options.layout} layout)"
    print(printable(text))


def _load_model(name):
    """Returns a task or backbone: of a run folder, a .keras file or a preset."""
    return trainer.load_keras_file(name) if name.endswith(".keras") else trainer.load_task(name)
