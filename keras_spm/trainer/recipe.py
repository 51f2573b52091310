"""Recipes: flat, typed values in a small Python file."""

import dataclasses
import json
import math
import pathlib
import runpy
import types

from keras_spm.optimizers import WarmupCosine
from keras_spm.registry import lookup
from keras_spm.trainer.schedules import SCHEDULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training is decided by; a kind of training adds its own.

    Attributes:
        preset: long name of a backbone preset.
        dataset: name of a data set.
        epochs: after each the model is validated, and kept if it is the best.
        batch_size: images a step.
        learning_rate: its peak.
        weight_decay: AdamW's, on kernels.
        drop_path_rate: of the last block.
        seed: of weights, order and augmentation.
        checkpoint_steps: steps from one checkpoint to the next within an epoch; 0 for none
            but that at its end.
    """

    preset: str
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    drop_path_rate: float
    seed: int
    checkpoint_steps: int = 0

    # {key: (least, most)}
    ranges = {
        **dict.fromkeys(("epochs", "batch_size"), (1, math.inf)),
        **dict.fromkeys(("learning_rate", "weight_decay"), (0, math.inf)),
        "drop_path_rate": (0, 1),
        "seed": (0, 2**32 - 1),
    }

    def __post_init__(self):
        for name, (least, most) in self.ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"`{name}` must be from {least} to {most}. "
                    f"Received: {name}={getattr(self, name)}"
                )

    def as_dict(self):
        """Returns {key: value}."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe):
    """Everything that decides an image-classification training.

    An epoch is as many examples as the training split has. What a recipe does not say is
    off. Data are `"digits"`, in memory, whose augmentation is `rotation`, `zoom` and
    `translation`; or files, with all other augmentation:

    - `"folder"`: `data_folder` has a folder for each class, or folders `train`, `val` and
      perhaps `test` of such.
    - `"csv"`: `data_folder` is a CSV file, see `keras_spm.data.CsvDataset`, perhaps with
      the splits `train`, `val` and `test`.
    - `"tfds"`: `data_folder` is that of a prepared data set of TensorFlow Datasets, such as
      `…/cifar10/3.0.2`; `"imagenet2012"` likewise.

    Attributes:
        load_weights: whether the backbone starts from the preset's published weights.
        frozen_stages: how many of the backbone's stages keep their weights; 4 for a linear
            probe.
        policy: Keras's dtype policy of the backbone, such as `"mixed_bfloat16"`.
        data_folder: where the data are; empty for those in memory.
        invalid: `"raise"`, or `"drop"` to train without the files that cannot be trained on.
        verify_images: whether all files are decoded before the training, to find those.
        validation_share: of the training split, held out where there is no split to validate
            on.
        class_weights: `"balanced"` for weights that make all classes count the same,
            whatever their number of images, or `"none"`.
        image_size: height and width of what is trained and tested on, pixels.
        crop_pct: of the test, see `keras_spm.data.ImagePreprocessing`.
        crop_scale: of the random crop, as a share of the image.
        flip: probability that an image is mirrored.
        magnitude: of RandAugment, from 0 to 10.
        erasing: probability that a split of an image is erased.
        mixup, cutmix: parameters of their beta distributions.
        label_smoothing: share of a label that goes to all classes alike.
        repeats: how often an image comes in succession, each time augmented anew.
        rotation: largest turn of augmentation, in degrees.
        zoom: largest relative change of size.
        translation: largest shift, as a share of the side.
        schedule: `"cosine"` falls to 0 over the steps after the rise; `"cosine_by_epoch"`
            and `"cosine_by_step"` are `WarmupCosine` as PVT and Swin use it.
        warmup_epochs: epochs of linear rise to the peak.
        warmup_learning_rate, min_learning_rate: where the rise begins, and where the cosine ends.
        epsilon: AdamW's.
        global_clipnorm: largest norm of all gradients together; 0 for any.
        layer_decay: see `LayerwiseAdamW`; 1 for none.
        accumulation: batches whose mean gradient makes one update. The averages and clipping
            are of updates.
        average: momentum of the weights' running average, which is validated, tested and
            kept in place of the weights; 0 for none. Statistics of batch normalization are
            not averaged twice.
    """

    load_weights: bool = False
    frozen_stages: int = 0
    dtype_policy: str = "float32"
    data_folder: str = ""
    invalid: str = "raise"
    verify_images: bool = True
    validation_share: float = 0.0
    class_weights: str = "none"
    image_size: int = 224
    crop_pct: float = 1.0
    crop_scale: float = 1.0
    flip: float = 0.0
    randaugment_magnitude: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    repeated_augmentation: int = 1
    rotation: float = 0.0
    zoom: float = 0.0
    translation: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: int
    warmup_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    epsilon: float = 1e-7
    global_clipnorm: float = 0.0
    layer_decay: float = 1.0
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.0

    ranges = {
        **Recipe.ranges,
        **dict.fromkeys(("flip", "erasing", "label_smoothing", "crop_scale", "average"), (0, 1)),
        **dict.fromkeys(("mixup", "cutmix", "global_clipnorm"), (0, math.inf)),
        **dict.fromkeys(("accumulation", "repeats", "image_size"), (1, math.inf)),
        "magnitude": (0, 10),
        "frozen_stages": (0, 4),
        "validation_share": (0, 1),
    }

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                "`warmup_epochs` must be at least 0 and less than `epochs`. Received: "
                f"warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )
        lookup("schedule", self.schedule, {"cosine": None, **_COSINES})
        lookup("kind of class weights", self.class_weights, dict.fromkeys(("none", "balanced")))

    def learning_rates(self, steps_per_epoch):
        """Returns the learning rate's `keras.optimizers.schedules` schedule."""
        steps, warmup = self.epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch
        if self.schedule == "cosine":
            return SCHEDULES["cosine"](self.learning_rate, steps, warmup)
        return WarmupCosine(
            self.learning_rate,
            steps,
            warmup,
            self.warmup_learning_rate,
            self.min_learning_rate,
            **_COSINES[self.schedule](steps_per_epoch),
        )


# {schedule: function of an epoch's steps that returns arguments of `WarmupCosine`}
_COSINES = {
    "cosine_by_epoch": lambda steps: {"update_every": steps},
    "cosine_by_step": lambda steps: {"warmup_prefix": True},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRecipe(Recipe):
    """What trainings of dense tasks share.

    Attributes:
        load_weights: whether the backbone starts from the preset's published weights.
        merging: of the backbone, as its constructor takes it.
        data_folder: where the data set is; empty for one that needs no files.
        steps_per_epoch: steps; the training split is repeated as often as needed.
        schedule: how the learning rate falls: `"cosine"` or `"polynomial"` (power 0.9), both
            to 0 in the end, or `"steps"`: a tenth after two thirds of the steps, and again
            after eleven twelfths.
        warmup_steps: steps of linear rise to the peak.
        pyramid_channels: of the feature pyramid.
        head_channels: of the head's convolutions.
        flip: probability that an image is mirrored.
    """

    load_weights: bool
    merging: str
    data_folder: str
    steps_per_epoch: int
    schedule: str
    warmup_steps: int
    pyramid_channels: int
    head_channels: int
    flip: float

    ranges = {**Recipe.ranges, "steps_per_epoch": (1, math.inf), "flip": (0, 1)}

    def __post_init__(self):
        super().__post_init__()
        lookup("schedule", self.schedule, SCHEDULES)
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `epochs` * `steps_per_epoch`. "
                f"Received: warmup_steps={self.warmup_steps}, of {self.steps} steps"
            )

    @property
    def steps(self):
        """Steps in all."""
        return self.epochs * self.steps_per_epoch

    def learning_rates(self):
        """Returns the learning rate's `keras.optimizers.schedules` schedule."""
        return SCHEDULES[self.schedule](self.learning_rate, self.steps, self.warmup_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(DenseRecipe):
    """Everything that decides a semantic-segmentation training.

    Attributes:
        image_size: height and width of the crops that are trained on, pixels.
        test_min_size, test_max_size: into which images are fitted in tests, their
            ratio kept; then they are enlarged to a multiple of 32.
        min_scale, max_scale: of the random resizing before the crop, relative to the
            size in tests; both 1 for none.
        color_jitter: whether colors are changed at random.
    """

    image_size: int
    test_min_size: int
    test_max_size: int
    min_scale: float
    max_scale: float
    color_jitter: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionRecipe(DenseRecipe):
    """Everything that decides an object-detection training.

    Attributes:
        min_size: to which images are resized, their ratio kept; pixels.
        max_size: its limit.
        num_convs: convolutions of each of the head's towers.
        anchor_scale: the smallest anchor's side, in strides.
        box_loss: as `ObjectDetector` takes it.
        frozen_stages: how many of the backbone's stages keep their weights.
    """

    min_size: int
    max_size: int
    num_convs: int
    anchor_scale: float
    box_loss: str
    frozen_stages: int


# A recipe file's name begins with its kind.
_KINDS = {
    "classification": ClassificationRecipe,
    "detection": DetectionRecipe,
    "segmentation": SegmentationRecipe,
}


def load_recipe(name, folder, overrides=()):
    """Reads a recipe file and applies overrides.

    A file may hold a table `variants`, {preset: {key: value}}, of what differs between
    presets; it replaces the file's values, and overrides replace both.

    Args:
        name: a file's name without `.py`, or the path of a file with it.
        folder: where recipes are that have a name.
        overrides: `"key=value"` strings; values are read as the key's type.

    Returns:
        A `Recipe` of the kind that the file's name begins with.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for an unknown recipe or key (says the nearest), a missing key, or a
            value of another type.
    """
    path = pathlib.Path(name)
    if path.suffix != ".py":
        files = {each.stem: each for each in sorted(pathlib.Path(folder).glob("*.py"))}
        path = lookup("recipe", name, files)
    namespace = runpy.run_path(str(path))
    values = {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_") and not isinstance(value, types.ModuleType)
    }
    variants = values.pop("variants", {})
    kind = lookup("kind of recipe", path.stem.partition("_")[0], _KINDS)
    overriding = _overriding(kind, overrides)
    preset = overriding.get("preset", values.get("preset"))
    # What a preset needs gives way to what was asked for.
    return _checked(kind, {**values, **variants.get(preset, {}), **overriding}, path)


def saved_recipe(path, kind, overrides=()):
    """Reads the recipe that a run left, and applies overrides.

    Args:
        path: of its JSON file.
        kind: class of the recipe.
        overrides: as `load_recipe` takes them.

    Raises:
        ValueError: as `load_recipe` does.
    """
    values = json.loads(pathlib.Path(path).read_text())
    return _checked(kind, {**values, **_overriding(kind, overrides)}, path)


def _overriding(kind, overrides):
    """{key: value} of "key=value" strings; a recipe's strings need no quotes."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    overriding = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"An override must read key=value. Received: {override!r}")
        overriding[key] = text if lookup("recipe key", key, fields) is str else _value(key, text)
    return overriding


def _checked(kind, values, path):
    """The recipe, where every value is of its key's type."""
    fields = dataclasses.fields(kind)
    types_of_keys = {field.name: field.type for field in fields}
    for key, value in values.items():
        wanted = lookup("recipe key", key, types_of_keys)
        if wanted is float and type(value) is int:
            value = values[key] = float(value)
        if type(value) is not wanted:
            raise ValueError(f"Recipe key {key!r} must be {wanted.__name__}. Received: {value!r}")
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"Recipe {str(path)!r} lacks {', '.join(missing)}.")
    return kind(**values)


def _value(key, text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(
            f"Recipe key {key!r} takes a number, true or false. Received: {text!r}"
        ) from None
