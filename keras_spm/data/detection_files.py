"""Sequences of examples whose images are files, with objects."""

import math
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from keras_spm.data.images import image_size, missing_files
from keras_spm.data.masks import decode_masks
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_invalid,
    read_annotations,
    report_invalid,
)
from keras_spm.types import Example

Box: TypeAlias = tuple[float, float, float, float]  # Left, top, right, bottom.


class ImageEntry(NamedTuple):
    """An image in a data set's list; height and width in pixels, after Exif orientation."""

    path: pathlib.Path
    image_id: int | str
    height: int
    width: int


class ObjectEntry(NamedTuple):
    """An object in image number `image_index` of the list; its mask is in RLE."""

    image_index: int
    box: Box
    label: int
    crowd: bool
    area: float
    mask: bytes | None = None


class DetectionFiles:
    """A sequence of examples with objects, whose images are files.

    An example has `image`, a path; `image_id`; `boxes` (objects, 4) float64, left, top, right
    and bottom in pixels after Exif orientation, where (0, 0, width, height) is the whole image;
    `labels` (objects,) int64; `crowd` (objects,) bool, true for regions that are neither right
    nor wrong to detect and are not trained on; `areas` (objects,) float64, in pixels; and with
    masks `masks` (objects, height, width) bool.

    Args:
        source: name of the data set in error messages.
        annotations: iterable of (id, annotation).
        read: function that turns an annotation into an `ObjectEntry`.
        invalid: `"raise"` or `"drop"`.
        masks: bool, whether every object must have a mask.
    """

    counted = "boxes"  # By `counts`.

    def __init__(
        self,
        source: object,
        images: list[ImageEntry],
        annotations: Iterable[tuple],
        read: Callable[..., ObjectEntry],
        invalid: str,
        masks: bool = False,
    ) -> None:
        check_invalid(invalid)
        self.invalid_annotations = {}
        read = _with_mask(read) if masks else read
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
        self._masks = [entry.mask for entry in objects] if masks else None
        indices = [entry.image_index for entry in objects]
        starts = np.searchsorted(indices, range(len(images) + 1))
        self._images = [
            (image, slice(start, end))
            for image, start, end in zip(images, starts[:-1], starts[1:], strict=True)
            if image.path not in missing
        ]

    @property
    def max_objects(self) -> int:
        """Largest number of objects in an image."""
        return max((rows.stop - rows.start for _, rows in self._images), default=0)

    def image_paths(self) -> list[pathlib.Path]:
        """Returns the path of every image."""
        return [image.path for image, _ in self._images]

    def counts(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """Returns (classes,) ints, the number of objects of each class, in all or some images."""
        indices = range(len(self)) if indices is None else indices
        labels = np.concatenate([[], *map(self._labels, indices)]).astype(int)
        return np.bincount(labels, minlength=len(self.class_names))

    def strata(self) -> np.ndarray:
        """Returns (images,) ints: the rarest class in each image, or -1 without objects."""
        counts = self.counts()
        return np.array(
            [
                min(self._labels(index), key=lambda label: counts[label], default=-1)
                for index in range(len(self))
            ]
        )

    def _labels(self, index):
        return self._fields["labels"][self._images[index][1]]

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
        if self._masks is not None:
            objects["masks"] = decode_masks(self._masks[rows], height, width)
        return {"image": image.path, "image_id": image.image_id, **objects}


def _with_mask(read):
    def read_with_mask(annotation):
        entry = read(annotation)
        if entry.mask is None:
            raise InvalidAnnotation("object without a mask")
        return entry

    return read_with_mask


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
