"""Recipes: flat, typed values in a small Python file."""

import dataclasses
import json
import pathlib
import runpy
import types

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
    """

    preset: str
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    drop_path_rate: float
    seed: int

    def as_dict(self):
        """Returns {key: value}."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe):
    """Everything that decides an image-classification training.

    An epoch is a pass over the training part. The learning rate falls to 0 by a cosine.

    Attributes:
        warmup_epochs: epochs of linear rise to the peak.
        rotation: largest turn of augmentation, in degrees.
        zoom: largest relative change of size.
        translation: largest shift, as a share of the side.
    """

    warmup_epochs: int
    rotation: float
    zoom: float
    translation: float

    def __post_init__(self):
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                "`warmup_epochs` must be at least 0 and less than `epochs`. Received: "
                f"warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )

    def learning_rates(self, steps_per_epoch):
        """Returns the learning rate's `keras.optimizers.schedules` schedule."""
        steps, warmup = self.epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch
        return SCHEDULES["cosine"](self.learning_rate, steps, warmup)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRecipe(Recipe):
    """What trainings of dense tasks share.

    Attributes:
        load_weights: whether the backbone starts from the preset's published weights.
        merging: of the backbone, as its constructor takes it.
        data_folder: where the data set is; empty for one that needs no files.
        steps_per_epoch: steps; the training part is repeated as often as needed.
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

    def __post_init__(self):
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
        test_shorter_side, test_longer_side: into which images are fitted in tests, their
            ratio kept; then they are enlarged to a multiple of 32.
        least_scale, largest_scale: of the random resizing before the crop, relative to the
            size in tests; both 1 for none.
        recolour: whether colours are changed at random.
    """

    image_size: int
    test_shorter_side: int
    test_longer_side: int
    least_scale: float
    largest_scale: float
    recolour: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionRecipe(DenseRecipe):
    """Everything that decides an object-detection training.

    Attributes:
        shorter_side: to which images are resized, their ratio kept; pixels.
        longer_side: its limit.
        head_depth: convolutions of each of the head's towers.
        anchor_size: the smallest anchor's side, in strides.
        box_loss: as `ObjectDetector` takes it.
        frozen_stages: how many of the backbone's stages keep their weights.
    """

    shorter_side: int
    longer_side: int
    head_depth: int
    anchor_size: float
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

    Args:
        name: the file's name without `.py`.
        folder: where recipe files are.
        overrides: `"key=value"` strings; values are read as the key's type.

    Returns:
        A `Recipe` of the kind that the file's name begins with.

    Raises:
        ValueError: for an unknown recipe or key (says the nearest), a missing key, or a
            value of another type.
    """
    files = {path.stem: path for path in sorted(pathlib.Path(folder).glob("*.py"))}
    namespace = runpy.run_path(str(lookup("recipe", name, files)))
    values = {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_") and not isinstance(value, types.ModuleType)
    }
    kind_of_recipe = lookup("kind of recipe", name.partition("_")[0], _KINDS)
    fields = {field.name: field.type for field in dataclasses.fields(kind_of_recipe)}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"An override must read key=value. Received: {override!r}")
        values[key] = text if lookup("recipe key", key, fields) is str else _value(key, text)
    for key, value in values.items():
        kind = lookup("recipe key", key, fields)
        if kind is float and type(value) is int:
            value = values[key] = float(value)
        if type(value) is not kind:
            raise ValueError(f"Recipe key {key!r} must be {kind.__name__}. Received: {value!r}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ValueError(f"Recipe {name!r} lacks {', '.join(missing)}.")
    return kind_of_recipe(**values)


def _value(key, text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(
            f"Recipe key {key!r} takes a number, true or false. Received: {text!r}"
        ) from None
