"""What a classifier learns from another network, by the keys of a recipe."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_spm.tasks import ImageClassifier
from keras_spm.terminal import printable
from keras_spm.trainer.recipe import Recipe
from keras_spm.transplantation import transplant


def prepare_transplant(
    recipe: Recipe, model: ImageClassifier, images: Sequence
) -> Callable[[bool], None] | None:
    """Returns a function (verbose) that transplants the mergings before the training.

    Args:
        recipe: `ClassificationRecipe`; `None` is returned if its `transplant_images` is 0.
        model: classifier whose backbone was loaded from a preset.
        images: array or examples.
    """

    def prepare(verbose: bool) -> None:
        report = transplant(
            model,
            images,
            steps=recipe.transplant_steps,
            max_images=recipe.transplant_images,
            seed=recipe.seed,
            verbose=verbose,
        )
        if verbose:
            print(printable(report, keep="\n"))

    return prepare if recipe.transplant_images else None


@contextlib.contextmanager
def without_warning_of_random_mergings(recipe: Recipe) -> Iterator[None]:
    """Suppresses the warning of `from_preset` if the mergings are transplanted later."""
    with warnings.catch_warnings():
        if recipe.transplant_images:
            warnings.filterwarnings("ignore", ".*are randomly initialized")
        yield


def distill(recipe: Recipe, model: ImageClassifier) -> None:
    """Adds the teacher of a `ClassificationRecipe` to a model, if it has one."""
    if recipe.distill_from:
        channels: dict[str, Any] = {"image_shape": recipe.image_shape}
        teacher: keras.Model = ImageClassifier.from_preset(recipe.distill_from, **channels)
        model.distill(
            teacher, recipe.distill_weight, recipe.distill_temperature, recipe.distill_maps_weight
        )
