"""Recipes: flat, typed hyperparameters in a small Python file."""

import dataclasses
import functools
import math
import pathlib
import reprlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import keras

from keras_spm.backend import replicas
from keras_spm.data.classes import parse_class_names
from keras_spm.data.readers import INVALID_CHOICES
from keras_spm.data.splits import AUTO, DataSplits
from keras_spm.optimizers import GATE_MULTIPLIER, LinearWarmup
from keras_spm.registry import RECIPES, lookup

_DRAWN_PREDICTIONS = 6
DTYPE_POLICIES = (
    *("float32", "float64", "bfloat16", "float16"),
    *("mixed_bfloat16", "mixed_float16"),
)


def _cosine(learning_rate, steps, warmup_steps):
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps,
    )


def _polynomial(learning_rate, steps, warmup_steps, power=0.9):
    decay = keras.optimizers.schedules.PolynomialDecay(
        learning_rate, steps, end_learning_rate=0.0, power=power
    )
    return LinearWarmup(decay, warmup_steps)


def _steps(learning_rate, steps, warmup_steps):
    boundaries = [round(steps * 8 / 12), round(steps * 11 / 12)]
    values = [learning_rate, learning_rate / 10, learning_rate / 100]
    decay = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    return LinearWarmup(decay, warmup_steps)


# {name: function (peak learning rate, total steps, warmup steps) that returns a schedule}
SCHEDULES = {
    "cosine": _cosine,
    "polynomial": _polynomial,
    "linear": functools.partial(_polynomial, power=1.0),
    "steps": _steps,
}


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
        notes: lines about values of the recipe that were adapted to the data.
        prepare: optional function (verbose) that is called before a new training, but not when
            a run is resumed.
    """

    model: keras.Model
    batches: Sequence
    steps_per_epoch: int
    data: DataSplits | None = None
    validation: Any = None
    monitor: tuple[str, str] = ("val_loss", "min")
    callbacks: tuple[keras.callbacks.Callback, ...] = ()
    notes: tuple[str, ...] = ()
    prepare: Callable[[bool], None] | None = None

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
        preset: name of a backbone preset, or its last part, such as `b0`, for another preset of
            the same family.
        dataset: name of a data set in memory or of a data format, or `auto` to recognize it.
        data_folder: folder or file of the data set; empty for data sets without files.
        class_names: classes in the order of labels, separated by commas, or the path of a file
            `.txt` or `.json`, see `keras_spm.data.read_classes`; empty for those of the data.
        invalid: `raise`, or `drop` to leave out invalid files and annotations; `auto` for the
            default of the data format.
        allow_outside: whether files outside of the data folder may be read.
        channels: channels of the images. Files are read as gray (1), RGB (3) or RGBA (4); TIFF
            files with a gray page per channel can have any number.
        validation_share: share of the training split that is held out for validation if there
            is no validation split.
        epochs: the model is validated after each epoch, and the best model is kept.
        batch_size: images per step, on all devices together.
        learning_rate: peak learning rate.
        weight_decay: of the kernels.
        gate_multiplier: learning rate of the gates of `merging="default+spm"`, as a multiple of
            `learning_rate`; they are not decayed.
        global_clipnorm: largest global norm of the gradients; 0 for no clipping.
        gradient_accumulation_steps: batches per update. Averages and clipping are per update.
        ema_decay: momentum of the weights' moving average, which is validated, tested and
            saved in place of the weights; 0 for none. Statistics of batch normalization are
            not averaged again.
        dtype_policy: Keras's dtype policy of the backbone, such as `mixed_bfloat16`.
        gradient_checkpointing: whether activations are computed again for the gradient, to save
            memory.
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
        variant_keys: keys whose values may be in the table `variants` of a recipe file.
    """

    preset: str
    dataset: str = ""
    data_folder: str = ""
    class_names: str = ""
    invalid: str = AUTO
    allow_outside: bool = False
    channels: int = 3
    validation_share: float = 0.0
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    gate_multiplier: float = GATE_MULTIPLIER
    global_clipnorm: float = 0.0
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.0
    dtype_policy: str = "float32"
    gradient_checkpointing: bool = False
    drop_path_rate: float = 0.0
    seed: int = 0
    checkpoint_steps: int = 0

    kind: ClassVar[str | None] = None
    task: ClassVar[type[keras.Model] | None] = None
    default: ClassVar[str | None] = None
    ranges: ClassVar[dict[str, Range]] = {
        **dict.fromkeys(("epochs", "batch_size", "channels"), COUNT),
        "gradient_accumulation_steps": COUNT,
        **dict.fromkeys(("learning_rate", "weight_decay", "global_clipnorm"), NOT_NEGATIVE),
        "gate_multiplier": NOT_NEGATIVE,
        **dict.fromkeys(("drop_path_rate", "ema_decay", "validation_share"), BELOW_ONE),
        "seed": Range(0, 2**32 - 1),
        "checkpoint_steps": COUNT_OR_ZERO,
    }
    variant_keys: ClassVar[tuple[str, ...]] = ("preset",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "dtype_policy": DTYPE_POLICIES,
        "invalid": (AUTO, *INVALID_CHOICES),
    }

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

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Shape of images of any size, in Keras's data format."""
        if keras.config.image_data_format() == "channels_first":
            return (self.channels, None, None)
        return (None, None, self.channels)

    def reader_arguments(self) -> dict[str, Any]:
        """Returns the arguments of the data reader; those of some formats only if they are set."""
        arguments = {"validation_share": self.validation_share, "seed": self.seed}
        if self.class_names:
            arguments["class_names"] = parse_class_names(self.class_names)
        if self.invalid != AUTO:
            arguments["invalid"] = self.invalid
        if self.allow_outside:
            arguments["allow_outside"] = True
        return arguments

    def shard(self) -> dict[str, int]:
        """Returns arguments of `repeated_batches`: `shard`, `shards` and its part of the batch.

        Raises:
            ValueError: if the devices of `data_parallel` do not divide the batch.
        """
        active = replicas.current()
        if active is None:
            return {"batch_size": self.batch_size}
        active.check_batch_size(self.batch_size)
        part = self.batch_size // active.processes
        return {"batch_size": part, "shard": active.process, "shards": active.processes}

    def optimizer_arguments(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer but for the learning rate."""
        accumulation = self.gradient_accumulation_steps
        arguments = {
            "weight_decay": self.weight_decay,
            "gate_multiplier": self.gate_multiplier,
            "global_clipnorm": self.global_clipnorm or None,
            "gradient_accumulation_steps": accumulation if accumulation > 1 else None,
        }
        if self.ema_decay:
            # Keras updates averages after every batch, also without an update of the weights.
            arguments |= {"use_ema": True, "ema_momentum": self.ema_decay ** (1 / accumulation)}
        return arguments

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
        images = [model.read_image(example["image"]) for example in drawn]
        model.draw(images, folder / "predictions.png", drawn, model.predict_images(images))

    def as_dict(self) -> dict[str, Any]:
        """Returns the kind and `{key: value}`."""
        return {"kind": self.kind, **dataclasses.asdict(self)}
