"""The command line of a training."""

import argparse
import pathlib
import sys

import keras

from keras_spm.trainer.classification import train_classifier
from keras_spm.trainer.detection import train_detector
from keras_spm.trainer.errors import TrainingError
from keras_spm.trainer.recipe import ClassificationRecipe
from keras_spm.trainer.recipe import DetectionRecipe
from keras_spm.trainer.recipe import SegmentationRecipe
from keras_spm.trainer.recipe import load_recipe
from keras_spm.trainer.run_folder import RunFolder
from keras_spm.trainer.segmentation import train_segmenter

_TRAININGS = {
    ClassificationRecipe: train_classifier,
    DetectionRecipe: train_detector,
    SegmentationRecipe: train_segmenter,
}


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
        folder.check_recipe(recipe)
        result = folder.result
        if result is not None:
            folder.remove_checkpoints()  # That a kill between the last two steps left.
            print(f"{folder.path} is finished already; delete it to train again.")
        else:
            train = _TRAININGS[type(recipe)]
            result = train(recipe, folder, verbose=1 if sys.stdout.isatty() else 2)
    except (ValueError, OSError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    files = ", ".join(sorted(path.name for path in folder.path.iterdir()))
    print("\n".join(f"{name.replace('_', ' ')}: {value:.5g}" for name, value in result.items()))
    print(f"see {folder.path}: {files}")
    return 0
