"""Data sets of dense tasks by the names that recipes call them."""

import collections.abc
import dataclasses
import pathlib

from keras_spm.data import CocoDetection
from keras_spm.data import DigitScenes
from keras_spm.data import SceneParse150
from keras_spm.data import TfdsCoco
from keras_spm.data import TfdsSceneParse150
from keras_spm.data import VocDetection
from keras_spm.data import VocSegmentation
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.registry import lookup
from keras_spm.trainer.data_parts import PARTS
from keras_spm.trainer.data_parts import DataParts

_VALIDATION_SCENES, _TEST_SCENES = 64, 256


def segmentation_data(recipe):
    """Returns the `DataParts` of a `SegmentationRecipe`."""
    return _data(recipe, _SEGMENTATION)


def detection_data(recipe):
    """Returns the `DataParts` of a `DetectionRecipe`."""
    return _data(recipe, _DETECTION)


def segmentation_test(recipe):
    """Returns (examples, class names) of the part alone that a `SegmentationRecipe` tests on."""
    return _test(recipe, _SEGMENTATION)


def detection_test(recipe):
    """Returns (examples, class names) of the part alone that a `DetectionRecipe` tests on."""
    return _test(recipe, _DETECTION)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """How a data set is read.

    Attributes:
        read: function (recipe, name of a part) of its examples.
        parts: names of those to train, validate and test on.
        class_names: list of strings, where the examples do not have their own.
    """

    read: collections.abc.Callable
    parts: tuple
    class_names: list | None = None

    def names(self, examples):
        return self.class_names or examples.class_names


def _data(recipe, readers):
    reader = lookup("data set", recipe.dataset, readers)
    train, *others = dict.fromkeys(reader.parts)
    train = reader.read(recipe, train)
    others = [reader.read(recipe, part) for part in others]
    names = reader.names(train)
    for examples in others:
        if reader.names(examples) != names:
            raise ValueError(
                f"{recipe.data_folder}: the parts {', '.join(dict.fromkeys(reader.parts))} must "
                f"have the same categories. Received: {names} and {reader.names(examples)}"
            )
    return DataParts(train, others[0], others[-1], names)


def _test(recipe, readers):
    reader = lookup("data set", recipe.dataset, readers)
    examples = reader.read(recipe, reader.parts[-1])
    return examples, reader.names(examples)


def _scenes(side, class_names):
    """A `_Reader` of scenes; `side` is the recipe's key of their size."""

    def read(recipe, part):
        # To train on as many as there are steps for: no scene comes twice.
        steps = recipe.steps * recipe.batch_size
        counts = dict(zip(PARTS, (steps, _VALIDATION_SCENES, _TEST_SCENES), strict=True))
        return DigitScenes(part, counts[part], getattr(recipe, side))

    return _Reader(read, PARTS, class_names)


def _coco(recipe, part):
    """A folder as COCO's own: `annotations/instances_train2017.json`, `train2017`, …"""
    folder = pathlib.Path(recipe.data_folder)
    annotations = folder / "annotations" / f"instances_{part}.json"
    return CocoDetection(annotations, folder / part, invalid="drop")


def _coco_format(recipe, part):
    """A folder of `train.json` and `validation.json`, with the images in `images`."""
    folder = pathlib.Path(recipe.data_folder)
    return CocoDetection(folder / f"{part}.json", folder / "images")


def _of_folder(reader, train, test, class_names=None, **arguments):
    """A `_Reader` of two parts of a folder."""

    def read(recipe, part):
        return reader(recipe.data_folder, part, **arguments)

    return _Reader(read, (train, test, test), class_names)


_SEGMENTATION = {
    "digit_scenes": _scenes("image_size", CLASS_NAMES),
    "scene_parse150": _of_folder(SceneParse150, "training", "validation"),
    "tfds_scene_parse150": _of_folder(
        TfdsSceneParse150, "train", "test", [f"class {number}" for number in range(150)]
    ),
    "voc": _of_folder(VocSegmentation, "train", "val"),
}
_DETECTION = {
    "coco": _Reader(_coco, ("train2017", "val2017", "val2017")),
    "coco_format": _Reader(_coco_format, ("train", "validation", "validation")),
    "digit_scenes": _scenes("shorter_side", CLASS_NAMES[1:]),
    "tfds_coco": _of_folder(TfdsCoco, "train", "validation", invalid="drop"),
    "voc": _of_folder(VocDetection, "train", "val"),
}
