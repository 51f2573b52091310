"""The command `keras-spm`, see `keras-spm --help`."""

import argparse
import pathlib
import sys

import keras

from keras_spm import trainer
from keras_spm.converters import to_torch_state_dict
from keras_spm.prediction import add_prediction_arguments
from keras_spm.prediction import run_prediction
from keras_spm.weights.formats import write_safetensors

# Those of `training/`, which come with the package.
RECIPES = pathlib.Path(__file__).parent / "recipes"

# Which have all that the commands may import.
_EXTRAS = "coco,data,plot"


def main(arguments=None):
    """Runs the command; returns the process's exit status.

    That is 0, 1 where `predict` could not read all images, or 2 for an error.

    Args:
        arguments: list of strings; the process's own by default.
    """
    parser = argparse.ArgumentParser(
        prog="keras-spm", description="Trains, measures and uses keras_spm models."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (summary, add_arguments, run) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        add_arguments(command)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except ModuleNotFoundError as error:
        print(f'error: {error}: pip install "keras-spm[{_EXTRAS}]"', file=sys.stderr)
        return 2
    except (OSError, TypeError, ValueError, trainer.TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(options):
    trainer.run_training(options, RECIPES)


def _evaluate(options):
    trainer.run_evaluation(options, RECIPES)


def _predict(options):
    return int(run_prediction(options, trainer.load_task(options.model)) > 0)


def _add_export_arguments(parser):
    parser.add_argument("model", help="a backbone or task, saved as .keras")
    parser.add_argument("target", help="the .safetensors file to write")
    parser.add_argument(
        "--layout",
        default="official",
        help="whose names: official (the default), timm or transformers",
    )


def _export(options):
    model = keras.saving.load_model(options.model)
    state = to_torch_state_dict(model, options.layout)
    write_safetensors(options.target, state)
    print(f"{len(state)} tensors written to {options.target} ({options.layout} layout)")


# {name: (what it does, function that adds its arguments, function of the parsed ones)}
_COMMANDS = {
    "train": ("train by a recipe, and leave a run folder", trainer.add_training_arguments, _train),
    "evaluate": (
        "measure a model on a data set",
        trainer.add_evaluation_arguments,
        _evaluate,
    ),
    "predict": ("say what is in images", add_prediction_arguments, _predict),
    "export": ("write a saved model's weights for PyTorch", _add_export_arguments, _export),
}
