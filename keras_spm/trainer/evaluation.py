"""Evaluates any saved model on any data set of its task."""

import pathlib
import re
from collections.abc import Iterable

import keras

from keras_spm.registry import RECIPES
from keras_spm.tasks.image_task import ImageTask
from keras_spm.trainer.recipe import Recipe
from keras_spm.trainer.recipe_files import load_recipe, load_saved_recipe
from keras_spm.types import PathLike
from keras_spm.weights.errors import shorten


def load_task(name: str) -> ImageTask:
    """Loads a model.

    Args:
        name: path of a run folder or a `.keras` file; or a preset of a task with weights, as
            in `from_preset`.

    Raises:
        ValueError: for an unknown name, a preset without a task, and a file of another model.
        keras_spm.weights.WeightsError: if files cannot be downloaded or do not match.
    """
    path = pathlib.Path(name)
    best = path / "best.keras"
    if path.suffix != ".keras" and not best.is_file():
        return ImageTask.from_preset(name)
    model = load_keras_file(path if path.suffix == ".keras" else best)
    if not isinstance(model, ImageTask):
        raise ValueError(f"{path} must contain a task. Received: {type(model).__name__}")
    return model


def load_keras_file(path: PathLike) -> keras.Model:
    """Loads a `.keras` file.

    Raises:
        OSError: if it cannot be read.
        ValueError: for a missing file, an unknown class, and an invalid file.
    """
    try:
        return keras.saving.load_model(path)
    except OSError:
        raise
    except Exception as error:  # Of any type, for damaged files and invalid configurations.
        lines = str(error).splitlines() or [type(error).__name__]
        # The first lines of Keras's TypeError are the whole configuration.
        reason = shorten(lines[-1] if isinstance(error, TypeError) else lines[0])
        unknown = re.search(r"Could not locate (class|function) '[^']*'", str(error))
        if unknown is not None:
            reason = f"{shorten(unknown[0])}. Import its module with `--import`."
        raise ValueError(f"{path} cannot be loaded: {reason}") from error


def find_recipe(
    model: ImageTask,
    name: str,
    recipe: str | None = None,
    data_folder: str | None = None,
    overrides: Iterable[str] = (),
) -> Recipe:
    """Returns the recipe with the data that a model is evaluated on.

    Args:
        model: task.
        name: of the model, as in `load_task`.
        recipe: name or path of a recipe. By default the recipe of the run, or else the default
            recipe of the task.
        data_folder: replaces that of the recipe; all of its images are used if it has no
            splits.
        overrides: strings `"key=value"`.

    Raises:
        ValueError: if the recipe is of another task, or there is none.
    """
    saved = pathlib.Path(name, "recipe.json")
    if recipe is None and saved.is_file():
        found = load_saved_recipe(saved, overrides, data_folder)
    else:
        recipe = recipe or _default_recipe(model)
        found = load_recipe(recipe, overrides, data_folder=data_folder)
    if not isinstance(model, found.task):
        raise ValueError(
            f"`--recipe` must be a recipe of {type(model).__name__}. Received: {recipe}"
        )
    return found


def evaluate(model: ImageTask, recipe: Recipe) -> dict[str, float]:
    """Evaluates a model on the test split of a recipe.

    Args:
        model: task.
        recipe: recipe of this task. Only its data settings are used.

    Returns:
        {metric: float}, and `images`, their number. Metrics of a class contain "/".

    Raises:
        ValueError: if the classes of the data and the model do not match.
    """
    examples, class_names = recipe.test_examples()
    return {"images": len(examples), **recipe.evaluate(model, examples, class_names)}


def _default_recipe(model):
    # Of the class itself before those of the classes that it is derived from.
    defaults = (
        recipe.default
        for ancestor in type(model).__mro__
        for recipe in RECIPES.values()
        if recipe.task is ancestor
    )
    name = next(filter(None, defaults), None)
    if name is None:
        raise ValueError(f"`--recipe` is required for {type(model).__name__}.")
    return name
