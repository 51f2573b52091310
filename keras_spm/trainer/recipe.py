"""Recipes: flat, typed hyperparameters in a small Python file."""

import dataclasses
import inspect
import json
import math
import pathlib
import runpy
import types
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import keras

from keras_spm.data.transforms import to_pixels
from keras_spm.optimizers import LinearWarmup
from keras_spm.registry import RECIPES, lookup
from keras_spm.trainer.data import DataSplits
from keras_spm.types import PathLike

_PACKAGE = pathlib.Path(__file__).parents[1]
_DRAWN_PREDICTIONS = 6


def _cosine(learning_rate, steps, warmup_steps):
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps,
    )


def _polynomial(learning_rate, steps, warmup_steps):
    decay = keras.optimizers.schedules.PolynomialDecay(
        learning_rate, steps, end_learning_rate=0.0, power=0.9
    )
    return LinearWarmup(decay, warmup_steps)


def _steps(learning_rate, steps, warmup_steps):
    boundaries = [round(steps * 8 / 12), round(steps * 11 / 12)]
    values = [learning_rate, learning_rate / 10, learning_rate / 100]
    decay = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    return LinearWarmup(decay, warmup_steps)


# {name: function (peak learning rate, total steps, warmup steps) that returns a schedule}
SCHEDULES = {"cosine": _cosine, "polynomial": _polynomial, "steps": _steps}


@dataclasses.dataclass(frozen=True)
class Setup:
    """A compiled model and its data, as `Recipe.setup` returns them.

    Attributes:
        model: compiled task.
        batches: Grain `MapDataset` of all batches of the training, as `fit` takes them; or a
            sequence of batches, which is repeated.
        steps_per_epoch: int.
        data: optional examples of each split.
        validation: optional `validation_data` of `fit`.
        monitor: (metric, `"min"` or `"max"`) that selects the best epoch.
        callbacks: callbacks of `fit`. Their metrics in the logs are recorded.
    """

    model: keras.Model
    batches: Sequence
    steps_per_epoch: int
    data: DataSplits | None = None
    validation: Any = None
    monitor: tuple[str, str] = ("val_loss", "min")
    callbacks: tuple[keras.callbacks.Callback, ...] = ()

    def first_batch(self) -> tuple[Any, Any]:
        """Returns (images, targets), arrays, of the first step."""
        images, targets, *_ = self.batches[0]
        return images, targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of a training, and the functions that set it up.

    A subclass registers itself under its class attribute `kind`, the first word of its recipe
    files' names. It is a dataclass; its fields are the keys of the recipe files.

    Attributes:
        preset: name of a backbone preset.
        dataset: name of a data set.
        data_folder: folder or file of the data set; empty for data sets without files.
        epochs: int. The model is validated after each epoch, and the best model is kept.
        batch_size: int.
        learning_rate: peak learning rate.
        weight_decay: float, of the kernels.
        drop_path_rate: drop-path rate of the last block.
        seed: seed of weights, order and augmentation.
        checkpoint_steps: steps between checkpoints within an epoch; 0 for one checkpoint per
            epoch.

    Class attributes:
        kind: str, first word of the recipe files' names.
        task: class of the model.
        default: name of the recipe whose data settings `evaluate` uses if none is given.
        ranges: `{key: (minimum, maximum)}`.
    """

    preset: str
    dataset: str = ""
    data_folder: str = ""
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    drop_path_rate: float = 0.0
    seed: int = 0
    checkpoint_steps: int = 0

    kind: ClassVar[str | None] = None
    task: ClassVar[type[keras.Model] | None] = None
    default: ClassVar[str | None] = None
    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        **dict.fromkeys(("epochs", "batch_size"), (1, math.inf)),
        **dict.fromkeys(("learning_rate", "weight_decay"), (0, math.inf)),
        "drop_path_rate": (0, 1),
        "seed": (0, 2**32 - 1),
    }

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "kind" in vars(cls):
            RECIPES.register(cls.kind, cls)

    def __post_init__(self):
        for name, (minimum, maximum) in self.ranges.items():
            value = getattr(self, name)
            if not minimum <= value <= maximum:
                raise ValueError(
                    f"`{name}` must be from {minimum} to {maximum}. Received: {name}={value}"
                )

    def setup(self) -> Setup:
        """Builds the data, the model and the batches, and compiles the model."""
        raise NotImplementedError(f"{type(self).__name__} must implement `setup`.")

    def test_examples(self) -> tuple[Sequence, list[str] | None]:
        """Reads the test split. Returns (examples, class names)."""
        raise NotImplementedError(f"{type(self).__name__} must implement `test_examples`.")

    def evaluate(
        self, model: keras.Model, examples: Sequence, class_names: list[str] | None
    ) -> dict[str, float]:
        """Returns the metrics of a model on examples. Metrics of a class contain "/"."""
        return model.evaluate_on(examples, class_names)

    def draw(self, model: keras.Model, examples: Sequence, folder: pathlib.Path) -> None:
        """Draws predictions for the first examples into `predictions.png` in a folder."""
        count = min(_DRAWN_PREDICTIONS, len(examples))
        drawn = [examples[index] for index in range(count)]
        images = [to_pixels(example["image"]) for example in drawn]
        model.draw(images, folder / "predictions.png", drawn, model.predict_images(images))

    def as_dict(self) -> dict[str, Any]:
        """Returns the kind and `{key: value}`."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


def recipes_folder() -> pathlib.Path:
    """Returns the folder of the recipes that come with the package."""
    installed = _PACKAGE / "recipes"
    # In a clone, also if it is installed as editable, they are outside of the package.
    return installed if installed.is_dir() else _PACKAGE.parent / "training" / "recipes"


def load_recipe(
    name: PathLike,
    overrides: Iterable[str] = (),
    folder: PathLike | None = None,
    data_folder: str | None = None,
) -> Recipe:
    """Reads a recipe file and applies overrides.

    A file may define a table `variants`, `{preset: {key: value}}`, with the values that depend
    on the preset. They replace the file's other values; overrides replace both.

    Args:
        name: file name without `.py`, or path of a file that ends in `.py`.
        overrides: strings `"key=value"`, converted to the type of the key.
        folder: folder of the named recipes; by default those that come with the package.
        data_folder: replaces the data folder. Nothing of it is held out.

    Returns:
        `Recipe` of the class that is registered under the first word of the file's name.

    Raises:
        FileNotFoundError: for a path of a missing file.
        ValueError: for an unknown recipe or key (suggests the nearest one), a missing key, or a
            value of a wrong type.
    """
    path = pathlib.Path(name)
    if path.suffix != ".py":
        files = sorted(pathlib.Path(folder or recipes_folder()).glob("[!_]*.py"))
        path = lookup("recipe", str(name), {file.stem: file for file in files})
    values = {
        key: value
        for key, value in runpy.run_path(str(path)).items()
        if not key.startswith("_")
        and not isinstance(value, (types.ModuleType, type))
        and not inspect.isroutine(value)
    }
    variants = values.pop("variants", {})
    recipe_class = RECIPES[path.stem.partition("_")[0]]
    overrides = _parse_overrides(recipe_class, overrides, data_folder)
    preset = overrides.get("preset", values.get("preset"))
    return _create(recipe_class, {**values, **variants.get(preset, {}), **overrides}, path)


def load_saved_recipe(
    path: PathLike, overrides: Iterable[str] = (), data_folder: str | None = None
) -> Recipe:
    """Reads the `recipe.json` of a run folder and applies overrides.

    Args:
        path: path of the file.
        overrides, data_folder: as in `load_recipe`.

    Raises:
        ValueError: as in `load_recipe`.
    """
    values = json.loads(pathlib.Path(path).read_text())
    recipe_class = RECIPES[values.pop("kind", None)]
    overrides = _parse_overrides(recipe_class, overrides, data_folder)
    return _create(recipe_class, {**values, **overrides}, path)


def _parse_overrides(recipe_class, overrides, data_folder):
    """Returns {key: value} of strings "key=value"; values of type str need no quotes."""
    key_types = {field.name: field.type for field in dataclasses.fields(recipe_class)}
    values = {}
    if data_folder is not None:
        values = {"data_folder": data_folder}
        if "validation_share" in key_types:
            values["validation_share"] = 0.0
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"An override must have the form key=value. Received: {override!r}")
        is_text = lookup("recipe key", key, key_types) is str
        values[key] = text if is_text else _parse_value(key, text)
    return values


def _parse_value(key, text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(
            f"Recipe key {key!r} must be a number, true or false. Received: {text!r}"
        ) from None


def _create(recipe_class, values, path):
    """Creates a recipe after checking the types of all values."""
    fields = dataclasses.fields(recipe_class)
    key_types = {field.name: field.type for field in fields}
    for key, value in values.items():
        expected = lookup("recipe key", key, key_types)
        if expected is float and type(value) is int:
            value = values[key] = float(value)
        if type(value) is not expected:
            raise ValueError(f"Recipe key {key!r} must be {expected.__name__}. Received: {value!r}")
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    missing = [key for key in required if key not in values]
    if missing:
        raise ValueError(f"Recipe {str(path)!r} lacks {', '.join(missing)}.")
    return recipe_class(**values)
