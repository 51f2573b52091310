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

_VALIDATION_SCENES, _TEST_SCENES = 64, 256


@dataclasses.dataclass(frozen=True)
class DenseData:
    """Examples of each part, and the classes' names.

    Attributes:
        train, validation, test: sequences of examples.
        class_names: list of strings.
    """

    train: collections.abc.Sequence
    validation: collections.abc.Sequence
    test: collections.abc.Sequence
    class_names: list


def segmentation_data(recipe):
    """Returns the `DenseData` of a `SegmentationRecipe`."""
    return lookup("data set", recipe.dataset, _SEGMENTATION)(recipe)


def detection_data(recipe):
    """Returns the `DenseData` of a `DetectionRecipe`."""
    return lookup("data set", recipe.dataset, _DETECTION)(recipe)


def _scenes(recipe, side, class_names):
    # As many as there are steps for: no scene comes twice.
    count = recipe.steps * recipe.batch_size
    return DenseData(
        DigitScenes("train", count, side),
        DigitScenes("validation", _VALIDATION_SCENES, side),
        DigitScenes("test", _TEST_SCENES, side),
        class_names,
    )


def _coco(recipe):
    """A folder as COCO's own: `annotations/instances_train2017.json`, `train2017`, …"""
    folder = pathlib.Path(recipe.data_folder)
    train, test = (
        CocoDetection(
            folder / "annotations" / f"instances_{part}.json", folder / part, invalid="drop"
        )
        for part in ("train2017", "val2017")
    )
    return DenseData(train, test, test, test.class_names)


def _coco_format(recipe):
    """A folder of `train.json` and `validation.json`, with the images in `images`."""
    folder = pathlib.Path(recipe.data_folder)
    train, test = (
        CocoDetection(folder / f"{part}.json", folder / "images")
        for part in ("train", "validation")
    )
    if train.class_names != test.class_names:
        raise ValueError(
            f"{folder}: train.json and validation.json must have the same categories. "
            f"Received: {train.class_names} and {test.class_names}"
        )
    return DenseData(train, test, test, test.class_names)


def _tfds_coco(recipe):
    train, test = (
        TfdsCoco(recipe.data_folder, part, invalid="drop") for part in ("train", "validation")
    )
    return DenseData(train, test, test, test.class_names)


def _scene_parse150(recipe):
    train, test = (SceneParse150(recipe.data_folder, part) for part in ("training", "validation"))
    return DenseData(train, test, test, test.class_names)


def _tfds_scene_parse150(recipe):
    train, test = (TfdsSceneParse150(recipe.data_folder, part) for part in ("train", "test"))
    return DenseData(train, test, test, [f"class {number}" for number in range(150)])


def _voc(reader):
    def read(recipe):
        train, test = (reader(recipe.data_folder, part) for part in ("train", "val"))
        return DenseData(train, test, test, test.class_names)

    return read


_SEGMENTATION = {
    "digit_scenes": lambda recipe: _scenes(recipe, recipe.image_size, CLASS_NAMES),
    "scene_parse150": _scene_parse150,
    "tfds_scene_parse150": _tfds_scene_parse150,
    "voc": _voc(VocSegmentation),
}
_DETECTION = {
    "coco": _coco,
    "coco_format": _coco_format,
    "digit_scenes": lambda recipe: _scenes(recipe, recipe.shorter_side, CLASS_NAMES[1:]),
    "tfds_coco": _tfds_coco,
    "voc": _voc(VocDetection),
}
