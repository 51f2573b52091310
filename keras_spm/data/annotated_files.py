"""Sequences of examples whose images are files: objects with boxes, and segmentation maps."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from keras_spm.data.images import image_size, missing_files, read_index_image
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_invalid,
    read_annotations,
    report_invalid,
)
from keras_spm.types import Example

_IGNORED = 255
_LISTED = 5  # Missing files in an error message.

Box: TypeAlias = tuple[float, float, float, float]  # Left, top, right, bottom.


class ImageEntry(NamedTuple):
    """An image in a data set's list; height and width in pixels, after Exif orientation."""

    path: pathlib.Path
    image_id: int | str
    height: int
    width: int


class ObjectEntry(NamedTuple):
    """An object in image number `image_index` of the list."""

    image_index: int
    box: Box
    label: int
    crowd: bool
    area: float


class DetectionFiles:
    """A sequence of examples with objects, whose images are files.

    An example has `image`, a path; `image_id`; `boxes` (objects, 4) float64, left, top, right
    and bottom in pixels after Exif orientation, where (0, 0, width, height) is the whole image;
    `labels` (objects,) int64; `crowd` (objects,) bool, true for regions that are neither right
    nor wrong to detect and are not trained on; and `areas` (objects,) float64, in pixels.

    Args:
        source: name of the data set in error messages.
        annotations: iterable of (id, annotation).
        read: function that turns an annotation into an `ObjectEntry`.
        invalid: `"raise"` or `"drop"`.
    """

    def __init__(
        self,
        source: object,
        images: list[ImageEntry],
        annotations: Iterable[tuple],
        read: Callable[..., ObjectEntry],
        invalid: str,
    ) -> None:
        check_invalid(invalid)
        self.invalid_annotations = {}
        objects = read_annotations(annotations, read, self.invalid_annotations)
        _check_pixel_boxes(source, objects, images)
        missing = missing_files(image.path for image in images)
        if missing:
            ids = [image.image_id for image in images if image.path in missing]
            self.invalid_annotations["missing image file"] = ids
        report_invalid(source, self.invalid_annotations, invalid)
        self._source = source
        # Flat arrays, which are cheaper to pickle for worker processes than many objects.
        objects.sort(key=lambda entry: entry.image_index)
        self._fields = object_fields(objects)
        indices = [entry.image_index for entry in objects]
        starts = np.searchsorted(indices, range(len(images) + 1))
        self._images = [
            (image, slice(start, end))
            for image, start, end in zip(images, starts[:-1], starts[1:], strict=True)
            if image.path not in missing
        ]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, rows = self._images[index]
        height, width = image_size(image.path)
        if (height, width) != (image.height, image.width):
            raise ValueError(
                f"{image.path} has width {width} and height {height} after Exif orientation, but "
                f"{self._source} lists width {image.width} and height {image.height}."
            )
        # Copies, so that a changed example does not change the data set.
        objects = {name: values[rows].copy() for name, values in self._fields.items()}
        return {"image": image.path, "image_id": image.image_id, **objects}


def _check_pixel_boxes(source, objects, images):
    """Refuses boxes that are fractions of their images."""
    large = [entry.box for entry in objects if min(images[entry.image_index][2:]) > 1]
    if large and max(max(box) for box in large) <= 1:
        raise ValueError(
            f"{source} must have boxes in pixels, but no box reaches beyond the first pixel of its "
            "image. Multiply fractions from 0 to 1 by the width and height of their image."
        )


def object_fields(objects: list[ObjectEntry]) -> dict[str, np.ndarray]:
    """Returns `boxes`, `labels`, `crowd` and `areas` of `DetectionFiles`."""
    return {
        "boxes": np.array([entry.box for entry in objects], "float64").reshape(-1, 4),
        "labels": np.array([entry.label for entry in objects], "int64"),
        "crowd": np.array([entry.crowd for entry in objects], "bool"),
        "areas": np.array([entry.area for entry in objects], "float64"),
    }


def clip_box(box: Box, height: int, width: int) -> Box:
    """Clips a box to its image; raises `InvalidAnnotation` if it is empty or outside."""
    check_finite(box)
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise InvalidAnnotation("box without area")
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise InvalidAnnotation("box outside the image")
    return left, top, right, bottom


def check_finite(numbers: Iterable[float]) -> None:
    """Raises `InvalidAnnotation` if a number is not finite as a float."""
    try:
        finite = all(map(math.isfinite, numbers))
    except OverflowError:  # An int too large for a float.
        finite = False
    if not finite:
        raise InvalidAnnotation("number that is not finite")


def box_area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


class SegmentationFiles:
    """A sequence of dicts of `image`, a path, and `segmentation_map` (height, width) uint8.

    Args:
        pairs: list of (path of an image, path of its segmentation map).
        class_names: names in the order of class indices.
        first_class: stored value of class 0, see `to_segmentation_map`.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: if there are too many classes, or all maps have no values but 0 and 255, as
            of binary masks whose objects are 255.
    """

    def __init__(
        self,
        pairs: list[tuple[pathlib.Path, pathlib.Path]],
        class_names: Iterable[str],
        first_class: int = 0,
    ) -> None:
        missing = sorted(missing_files(path for pair in pairs for path in pair))
        if missing:
            listed = ", ".join(map(str, missing[:_LISTED])) + ", …" * (len(missing) > _LISTED)
            raise FileNotFoundError(f"{len(missing)} files are missing: {listed}")
        self.class_names = list(class_names)
        if len(self.class_names) > _IGNORED:
            raise ValueError(
                f"`class_names` must be at most {_IGNORED} names, because maps are 8-bit and "
                f"{_IGNORED} means ignored. Received: {len(self.class_names)} names"
            )
        self._pairs = pairs
        self._first_class = first_class
        if first_class == 0 and _are_binary_masks(stored for _, stored in pairs):
            raise ValueError(
                f"All {len(pairs)} segmentation maps, such as {pairs[0][1]}, have no values but 0 "
                f"and {_IGNORED}, and {_IGNORED} means ignored: no object would be trained. Write "
                "1 for the pixels of objects."
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, stored = self._pairs[index]
        values, size = read_index_image(stored), image_size(image)
        num_classes, first_class = len(self.class_names), self._first_class
        segmentation_map = to_segmentation_map(values, size, num_classes, first_class, stored)
        return {"image": image, "segmentation_map": segmentation_map}


def _are_binary_masks(paths):
    """Whether maps have no values but 0 and 255, and 255 occurs."""
    found = set()
    for path in paths:
        with contextlib.suppress(ValueError):  # An unreadable map: an error when it is used.
            found.update(np.unique(read_index_image(path)).tolist())
        if found - {0, _IGNORED}:
            return False
    return _IGNORED in found


def to_segmentation_map(
    stored: np.ndarray, size: tuple[int, int], num_classes: int, first_class: int, source: object
) -> np.ndarray:
    """Converts a stored map to class indices from 0, with 255 where ignored.

    Args:
        stored: (height, width) or (height, width, 1) uint8.
        size: (height, width) of the image.
        first_class: stored value of class 0: 0, or 1 if 0 means ignored.
        source: name of the map in error messages.

    Raises:
        ValueError: if the map has another size than its image or an invalid value.
    """
    if stored.ndim == 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.shape != tuple(size):
        raise ValueError(
            f"{source} must have the size of its image, (height, width) {tuple(size)}. "
            f"Received: {stored.shape}"
        )
    segmentation_map = stored - np.uint8(first_class)  # In uint8, 0 - 1 is 255.
    labeled = segmentation_map[segmentation_map != _IGNORED]
    invalid = labeled[labeled >= num_classes]
    if invalid.size:
        raise ValueError(
            f"{source} must have values from {first_class} to {first_class + num_classes - 1}, or "
            f"{'0' if first_class else _IGNORED} for ignored pixels. "
            f"Received: {np.unique(invalid).astype(int) + first_class}"
        )
    return segmentation_map
