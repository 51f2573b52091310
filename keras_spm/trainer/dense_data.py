"""Data sets of dense tasks by the names that recipes call them."""

import collections.abc
import dataclasses
import pathlib

from keras_spm.data import Ade20k
from keras_spm.data import CocoDetection
from keras_spm.data import DigitScenes
from keras_spm.data import TfdsAde20k
from keras_spm.data import TfdsCoco
from keras_spm.data import VocDetection
from keras_spm.data import VocSegmentation
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.registry import lookup
from keras_spm.trainer.data_splits import SPLITS
from keras_spm.trainer.data_splits import DataSplits

_VALIDATION_SCENES, _TEST_SCENES = 64, 256


def segmentation_data(recipe):
    """Returns the `DataSplits` of a `SegmentationRecipe`."""
    return _data(recipe, _SEGMENTATION)


def detection_data(recipe):
    """Returns the `DataSplits` of a `DetectionRecipe`."""
    return _data(recipe, _DETECTION)


def segmentation_test(recipe):
    """Returns (examples, class names) of the split alone that a `SegmentationRecipe` tests on."""
    return _test(recipe, _SEGMENTATION)


def detection_test(recipe):
    """Returns (examples, class names) of the split alone that a `DetectionRecipe` tests on."""
    return _test(recipe, _DETECTION)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """How a data set is read.

    Attributes:
        read: function (recipe, name of a split) of its examples.
        splits: names of those to train, validate and test on.
        class_names: list of strings, where the examples do not have their own.
    """

    read: collections.abc.Callable
    splits: tuple
    class_names: list | None = None

    def names(self, examples):
        return self.class_names or examples.class_names


def _data(recipe, readers):
    reader = lookup("data set", recipe.dataset, readers)
    train, *others = dict.fromkeys(reader.splits)
    train = reader.read(recipe, train)
    others = [reader.read(recipe, split) for split in others]
    names = reader.names(train)
    for examples in others:
        if reader.names(examples) != names:
            raise ValueError(
                f"{recipe.data_folder}: the splits {', '.join(dict.fromkeys(reader.splits))} must "
                f"have the same categories. Received: {names} and {reader.names(examples)}"
            )
    return DataSplits(train, others[0], others[-1], names)


def _test(recipe, readers):
    reader = lookup("data set", recipe.dataset, readers)
    examples = reader.read(recipe, reader.splits[-1])
    return examples, reader.names(examples)


def _scenes(side, class_names):
    """A `_Reader` of scenes; `side` is the recipe's key of their size."""

    def read(recipe, split):
        # To train on as many as there are steps for: no scene comes twice.
        steps = recipe.steps * recipe.batch_size
        counts = dict(zip(SPLITS, (steps, _VALIDATION_SCENES, _TEST_SCENES), strict=True))
        return DigitScenes(split, counts[split], getattr(recipe, side))

    return _Reader(read, SPLITS, class_names)


def _coco(recipe, split):
    """A folder as COCO's own: `annotations/instances_train2017.json`, `train2017`, …"""
    folder = pathlib.Path(recipe.data_folder)
    annotations = folder / "annotations" / f"instances_{split}.json"
    return CocoDetection(annotations, folder / split, invalid="drop")


def _coco_format(recipe, split):
    """A folder of `train.json` and `validation.json`, with the images in `images`."""
    folder = pathlib.Path(recipe.data_folder)
    return CocoDetection(folder / f"{split}.json", folder / "images")


def _of_folder(reader, train, test, class_names=None, **arguments):
    """A `_Reader` of two splits of a folder."""

    def read(recipe, split):
        return reader(recipe.data_folder, split, **arguments)

    return _Reader(read, (train, test, test), class_names)


_SEGMENTATION = {
    "digit_scenes": _scenes("image_size", CLASS_NAMES),
    "ade20k": _of_folder(Ade20k, "training", "validation"),
    "tfds_ade20k": _of_folder(
        TfdsAde20k, "train", "test", [f"class {number}" for number in range(150)]
    ),
    "voc": _of_folder(VocSegmentation, "train", "val"),
}
_DETECTION = {
    "coco": _Reader(_coco, ("train2017", "val2017", "val2017")),
    "coco_format": _Reader(_coco_format, ("train", "validation", "validation")),
    "digit_scenes": _scenes("min_size", CLASS_NAMES[1:]),
    "tfds_coco": _of_folder(TfdsCoco, "train", "validation", invalid="drop"),
    "voc": _of_folder(VocDetection, "train", "val"),
}
