"""Segmentation maps and masks of objects from folders in Pascal VOC's layout."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_spm.data.detection_files import DetectionFiles, ImageEntry, ObjectEntry
from keras_spm.data.folders import SPLIT_WORDS, common_stems, image_files
from keras_spm.data.images import image_size, open_image, read_index_image
from keras_spm.data.masks import encode_mask
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_class_names,
    find_splits,
    register_reader,
)
from keras_spm.data.segmentation_files import SegmentationFiles
from keras_spm.data.voc import VOC_CLASS_NAMES, image_lists, image_names
from keras_spm.registry import lookup
from keras_spm.types import PathLike

_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0]  # The first colors of the benchmark.
_BORDER = 255


class VocSegmentation(SegmentationFiles):
    """Segmentation maps from a folder in Pascal VOC's layout, such as `VOCdevkit/VOC2012`.

    A sequence of dicts of `image`, a path, and `segmentation_map` (height, width) uint8, in the
    order of `ImageSets/Segmentation/{split}.txt`, from `SegmentationClass/{name}.png` and
    `JPEGImages/{name}.jpg`, or another extension. Palette indices are class indices; 255, VOC's
    border around objects, is ignored.

    Args:
        folder: path of the folder that contains `ImageSets`.
        split: name of a list in `ImageSets/Segmentation`, such as `"train"`.
        class_names: the classes in the order of indices, or `None` for the background and
            VOC's 20.
        invalid: `"raise"`, or `"drop"` to leave out images without a map of their size.

    Raises:
        FileNotFoundError: if the folder has no such lists.
        ValueError: if the split is unknown, a file is missing, a map has another size than its
            image, or all maps have no values but 0 and 255; when an example is read, if a file
            is invalid.
    """

    def __init__(
        self,
        folder: PathLike,
        split: str,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
    ) -> None:
        folder = pathlib.Path(folder)
        pairs = _pairs(folder, split, "SegmentationClass")
        if class_names is None:
            class_names = ("background", *VOC_CLASS_NAMES)
        super().__init__(folder, pairs, check_class_names(class_names), invalid=invalid)


def _find_splits(folder):
    lists = image_lists(pathlib.Path(folder), "Segmentation")
    return find_splits(name for name in lists if name.lower() in SPLIT_WORDS)


def _recognize(folder):
    """The benchmark alone, whose maps have its palette: other data have other classes."""
    if not (folder / "ImageSets/Segmentation").is_dir():
        return None
    for path in image_files(folder / "SegmentationClass")[:1]:
        with open_image(path) as image:
            if image.mode == "P" and image.getpalette()[:9] == _PALETTE:
                return "Pascal VOC format"
    return None


@register_reader(
    "segmentation",
    "voc",
    _find_splits,
    layout=("ImageSets/Segmentation/train.txt", "SegmentationClass/*.png", "JPEGImages/*.jpg"),
    recognize=_recognize,
)
def _read_segmentation(folder, split, class_names, invalid, verify):
    return VocSegmentation(folder, split, class_names, invalid)


class VocInstances(DetectionFiles):
    """Objects with masks from a folder in Pascal VOC's layout, such as `VOCdevkit/VOC2012`.

    A sequence of dicts in the order of `ImageSets/Segmentation/{split}.txt`: `image`, a path,
    `image_id`, `boxes`, `labels`, `crowd`, `areas` and `masks`; see
    `keras_spm.data.DetectionBatching`. Palette indices of `SegmentationObject/{name}.png` are the
    objects of an image; 255, VOC's border around objects, belongs to none. The class of an object
    is the value of `SegmentationClass/{name}.png` at most of its pixels; its box is that of its
    mask.

    Invalid are: an unknown class, maps of another size than their image, a missing file.

    Args:
        folder: path of the folder that contains `ImageSets`.
        split: name of a list in `ImageSets/Segmentation`, such as `"train"`.
        class_names: the classes in the order of palette indices from 1; by default VOC's 20.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.

    Attributes:
        invalid_annotations: {reason: [ids]} of dropped annotations: `"2007_000027 #2"` is the
            second object of an image.

    Raises:
        FileNotFoundError: if the folder has no such lists.
        ValueError: if the split is unknown, or objects are invalid.
    """

    def __init__(
        self,
        folder: PathLike,
        split: str,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
    ) -> None:
        folder = pathlib.Path(folder)
        self.class_names = check_class_names(class_names or VOC_CLASS_NAMES)
        images = []
        # Maps are read one by one, while `super().__init__` reads the objects in them.
        objects = _objects(_pairs(folder, split, "SegmentationObject"), images)
        read = functools.partial(_read_object, num_classes=len(self.class_names))
        super().__init__(folder, images, objects, read, invalid, masks=True)


def _objects(pairs, images):
    """Yields (id, (index of the image, number in the map, maps)); appends to `images`."""
    for image, path in pairs:
        maps = _object_maps(image, path)
        if maps is None:
            yield image.stem, None
            continue
        images.append(ImageEntry(image, image.stem, *maps[0].shape))
        for number in sorted(set(np.unique(maps[0]).tolist()) - {0, _BORDER}):
            yield f"{image.stem} #{number}", (len(images) - 1, number, maps)


def _object_maps(image, path):
    """Returns the numbers of objects and of classes, (height, width) each, or None."""
    classes = path.parent.parent / "SegmentationClass" / path.name
    if not (path.is_file() and classes.is_file() and image.is_file()):
        return None
    maps = read_index_image(path), read_index_image(classes)
    return maps if {each.shape for each in maps} == {image_size(image)} else None


def _read_object(annotation, num_classes):
    if annotation is None:
        raise InvalidAnnotation("no maps of objects and classes in the size of the image")
    index, number, (objects, classes) = annotation
    mask = objects == number
    label = np.bincount(classes[mask]).argmax() - 1
    if not 0 <= label < num_classes:
        raise InvalidAnnotation("unknown class")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = tuple(map(float, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    return ObjectEntry(index, box, int(label), False, float(mask.sum()), encode_mask(mask))


def _has_objects(folder):
    has_lists = (folder / "ImageSets/Segmentation").is_dir()
    return "Pascal VOC format" if has_lists and (folder / "SegmentationObject").is_dir() else None


@register_reader(
    "instances",
    "voc",
    _find_splits,
    layout=("ImageSets/Segmentation/train.txt", "SegmentationObject/*.png", "JPEGImages/*.jpg"),
    recognize=_has_objects,
)
def _read_instances(folder, split, class_names, invalid, verify):
    return VocInstances(folder, split, class_names, invalid)


def _pairs(folder, split, maps):
    """Returns (path of an image, path of its map) for the images of a split."""
    lists = image_lists(folder, "Segmentation")
    if not lists:
        raise FileNotFoundError(f"{folder / 'ImageSets/Segmentation'} contains no lists of images.")
    names = image_names(folder, lookup("split", split, lists))
    images = folder / "JPEGImages"
    known = common_stems(path for path in image_files(images) if path.stem in set(names))
    return [
        (known.get(name, images / f"{name}.jpg"), folder / maps / f"{name}.png") for name in names
    ]
