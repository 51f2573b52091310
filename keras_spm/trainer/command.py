"""The command line of a training."""

import argparse
import pathlib
import sys

import keras

from keras_spm.trainer.classification import train_classifier
from keras_spm.trainer.recipe import load_recipe
from keras_spm.trainer.run_folder import RunFolder


def main(recipes, arguments=None):
    """Trains by a recipe; returns the process's exit status.

    Args:
        recipes: folder with recipe files.
        arguments: list of strings; the process's own by default.
    """
    parser = argparse.ArgumentParser(description="Trains by a recipe and leaves a run folder.")
    parser.add_argument("recipe", help="name of a file in the recipe folder, without .py")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replaces a value of the recipe",
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="run folder; by default runs/RECIPE-BACKEND-seedN"
    )
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(options.recipe, recipes, options.set)
        name = f"{options.recipe}-{keras.config.backend()}-seed{recipe.seed}"
        folder = RunFolder(options.output or pathlib.Path("runs", name))
        result = folder.result
        if result is not None:
            folder.check_recipe(recipe)
            print(f"{folder.path} is finished already; delete it to train again.")
        else:
            result = train_classifier(recipe, folder, verbose=1 if sys.stdout.isatty() else 2)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"test accuracy {result['test_accuracy']:.2%} (best epoch {result['best_epoch']}, "
        f"{result['seconds']} s of training)\n"
        f"see {folder.path}: best.keras, metrics.csv, curves.png, confusion_matrix.png"
    )
    return 0
