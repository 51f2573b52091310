"""The command `keras-spm`, see `keras-spm --help`."""

import argparse
import sys

import keras

from keras_spm.converters import to_torch_state_dict
from keras_spm.weights.formats import write_safetensors


def main(arguments=None):
    """Runs the command; returns the process's exit status.

    Args:
        arguments: list of strings; the process's own by default.
    """
    parser = argparse.ArgumentParser(prog="keras-spm", description="Tools for keras_spm models.")
    commands = parser.add_subparsers(required=True, metavar="command")
    export = commands.add_parser(
        "export",
        help="write a saved model's weights for PyTorch",
        description="Writes a saved model's weights as safetensors, as PyTorch code names them.",
    )
    export.add_argument("model", help="a backbone or task, saved as .keras")
    export.add_argument("target", help="the .safetensors file to write")
    export.add_argument(
        "--layout",
        default="official",
        help="whose names: official (the default), timm or transformers",
    )
    export.set_defaults(run=_export)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _export(options):
    model = keras.saving.load_model(options.model)
    state = to_torch_state_dict(model, options.layout)
    write_safetensors(options.target, state)
    print(f"{len(state)} tensors written to {options.target} ({options.layout} layout)")
