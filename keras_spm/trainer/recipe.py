"""Recipes: flat, typed hyperparameters in a small Python file."""

import dataclasses
import math
import pathlib
import reprlib
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras

from keras_spm.data.splits import DataSplits
from keras_spm.data.transforms import to_pixels
from keras_spm.optimizers import LinearWarmup
from keras_spm.registry import RECIPES, lookup

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


class Range(NamedTuple):
    """The values that a numeric key of a recipe can have; they are always finite.

    Attributes:
        minimum, maximum: numbers.
        allow_minimum, allow_maximum: whether the value may be the minimum or maximum itself.
    """

    minimum: float = -math.inf
    maximum: float = math.inf
    allow_minimum: bool = True
    allow_maximum: bool = True

    def check(self, key: str, value: float) -> None:
        """Raises a `ValueError` if a value is not in the range."""
        # False for NaN, and for ints that are larger than any float.
        is_finite = abs(value) <= sys.float_info.max
        is_above = value >= self.minimum if self.allow_minimum else value > self.minimum
        is_below = value <= self.maximum if self.allow_maximum else value < self.maximum
        if not (is_finite and is_above and is_below):
            raise ValueError(f"`{key}` must be {self}. Received: {key}={reprlib.repr(value)}")

    def __str__(self):
        limits = []
        if self.minimum > -math.inf:
            limits.append(f"{'at least' if self.allow_minimum else 'above'} {self.minimum:.10g}")
        if self.maximum < math.inf:
            limits.append(f"{'at most' if self.allow_maximum else 'below'} {self.maximum:.10g}")
        return "a finite number" + (f", {' and '.join(limits)}" if limits else "")


_MAX_COUNT = 2**31 - 1  # Larger numbers of steps or pixels overflow somewhere.
COUNT = Range(1, _MAX_COUNT)
COUNT_OR_ZERO = Range(0, _MAX_COUNT)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, allow_minimum=False)
PROBABILITY = Range(0, 1)
BELOW_ONE = Range(0, 1, allow_maximum=False)
ABOVE_ZERO_TO_ONE = Range(0, 1, allow_minimum=False)


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
        ranges: `{key: Range}` of numeric keys.
        choices: `{key: tuple of str}` of keys that have one of these values.
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
    ranges: ClassVar[dict[str, Range]] = {
        **dict.fromkeys(("epochs", "batch_size"), COUNT),
        **dict.fromkeys(("learning_rate", "weight_decay"), NOT_NEGATIVE),
        "drop_path_rate": BELOW_ONE,
        "seed": Range(0, 2**32 - 1),
        "checkpoint_steps": COUNT_OR_ZERO,
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "kind" in vars(cls):
            RECIPES.register(cls.kind, cls)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            key, value = field.name, getattr(self, field.name)
            if type(value) in (int, float):
                self.ranges.get(key, Range()).check(key, value)
            if key in self.choices:
                lookup(f"`{key}`", value, dict.fromkeys(self.choices[key]))

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
