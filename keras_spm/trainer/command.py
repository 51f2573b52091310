"""The command line of a training."""

import argparse
import pathlib
import sys

import keras

from keras_spm.trainer.classification import prepare_classifier
from keras_spm.trainer.classification import train_classifier
from keras_spm.trainer.detection import prepare_detector
from keras_spm.trainer.detection import train_detector
from keras_spm.trainer.dry_run import plan
from keras_spm.trainer.errors import TrainingError
from keras_spm.trainer.recipe import ClassificationRecipe
from keras_spm.trainer.recipe import DetectionRecipe
from keras_spm.trainer.recipe import SegmentationRecipe
from keras_spm.trainer.recipe import load_recipe
from keras_spm.trainer.run_folder import RunFolder
from keras_spm.trainer.segmentation import prepare_segmenter
from keras_spm.trainer.segmentation import train_segmenter

# {kind of recipe: functions that prepare a training, and that do it}
_TRAININGS = {
    ClassificationRecipe: (prepare_classifier, train_classifier),
    DetectionRecipe: (prepare_detector, train_detector),
    SegmentationRecipe: (prepare_segmenter, train_segmenter),
}


def main(recipes, arguments=None):
    """Trains by a recipe; returns the process's exit status.

    Args:
        recipes: folder with recipe files.
        arguments: list of strings; the process's own by default.
    """
    parser = argparse.ArgumentParser(description="Trains by a recipe and leaves a run folder.")
    add_training_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        run_training(options, recipes)
    except (ValueError, OSError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def add_training_arguments(parser):
    """Adds what a training can be told to an `argparse.ArgumentParser`."""
    parser.add_argument("recipe", help="a recipe's name, or the path of a recipe file, ….py")
    add_overrides(parser)
    parser.add_argument(
        "--output", type=pathlib.Path, help="run folder; by default runs/RECIPE-BACKEND-seedN"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, print the plan, train and write nothing",
    )


def add_overrides(parser):
    """Adds `--set`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replaces a value of the recipe",
    )


def run_training(options, recipes):
    """Does what parsed arguments say, and prints the result.

    Args:
        options: of `add_training_arguments`.
        recipes: folder of the recipes that have a name.

    Raises:
        ValueError, OSError, TrainingError: for what cannot be trained.
    """
    recipe = load_recipe(options.recipe, recipes, options.set)
    prepare, train = _TRAININGS[type(recipe)]
    if options.dry_run:
        print(plan(recipe, prepare(recipe)))
        return
    name = f"{pathlib.Path(options.recipe).stem}-{keras.config.backend()}-seed{recipe.seed}"
    folder = RunFolder(options.output or pathlib.Path("runs", name))
    folder.check_recipe(recipe)
    result = folder.result
    if result is not None:
        folder.remove_checkpoints()  # That a kill between the last two steps left.
        print(f"{folder.path} is finished already; delete it to train again.")
    else:
        result = train(recipe, folder, verbose=1 if sys.stdout.isatty() else 2)
    files = ", ".join(sorted(path.name for path in folder.path.iterdir()))
    print("\n".join(f"{name.replace('_', ' ')}: {value:.5g}" for name, value in result.items()))
    print(f"see {folder.path}: {files}")
