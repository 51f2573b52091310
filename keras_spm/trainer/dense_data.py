"""Data sets of dense tasks by the names that recipes call them."""

import collections.abc
import dataclasses
import functools
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


def _in_two_parts(read, train, test):
    """Data without a third part: what is validated on is the test."""
    train, test = read(train), read(test)
    return DenseData(train, test, test, test.class_names)


def _coco(recipe):
    """A folder as COCO's own: `annotations/instances_train2017.json`, `train2017`, …"""
    folder = pathlib.Path(recipe.data_folder)

    def read(part):
        annotations = folder / "annotations" / f"instances_{part}.json"
        return CocoDetection(annotations, folder / part, invalid="drop")

    return _in_two_parts(read, "train2017", "val2017")


def _coco_format(recipe):
    """A folder of `train.json` and `validation.json`, with the images in `images`."""
    folder = pathlib.Path(recipe.data_folder)

    def read(part):
        return CocoDetection(folder / f"{part}.json", folder / "images")

    data = _in_two_parts(read, "train", "validation")
    if data.train.class_names != data.class_names:
        raise ValueError(
            f"{folder}: train.json and validation.json must have the same categories. "
            f"Received: {data.train.class_names} and {data.class_names}"
        )
    return data


def _of_folder(reader, train, test, **arguments):
    """Function of a recipe that reads two parts of its folder."""

    def read(recipe):
        read_part = functools.partial(reader, recipe.data_folder, **arguments)
        return _in_two_parts(read_part, train, test)

    return read


def _tfds_scene_parse150(recipe):
    train, test = (TfdsSceneParse150(recipe.data_folder, part) for part in ("train", "test"))
    return DenseData(train, test, test, [f"class {number}" for number in range(150)])


_SEGMENTATION = {
    "digit_scenes": lambda recipe: _scenes(recipe, recipe.image_size, CLASS_NAMES),
    "scene_parse150": _of_folder(SceneParse150, "training", "validation"),
    "tfds_scene_parse150": _tfds_scene_parse150,
    "voc": _of_folder(VocSegmentation, "train", "val"),
}
_DETECTION = {
    "coco": _coco,
    "coco_format": _coco_format,
    "digit_scenes": lambda recipe: _scenes(recipe, recipe.shorter_side, CLASS_NAMES[1:]),
    "tfds_coco": _of_folder(TfdsCoco, "train", "validation", invalid="drop"),
    "voc": _of_folder(VocDetection, "train", "val"),
}
