"""Annotated objects, checked one by one, and the sequence of images that they are in."""

import math
import os
import typing

import numpy as np

from keras_spm.data.examples import DetectionExample
from keras_spm.data.image_files import image_size
from keras_spm.data.image_files import missing_files

_INVALID = ("raise", "drop")
_NAMED = 5  # Annotations of a kind that an error lists.


class BadAnnotation(Exception):  # noqa: N818
    """An annotation breaks a rule; the message names the rule."""


class ListedImage(typing.NamedTuple):
    """An image as its data set lists it: height and width in pixels, as it is viewed."""

    path: os.PathLike
    image_id: int | str
    height: int
    width: int


class AnnotatedObject(typing.NamedTuple):
    """An object of the image at `place` in the list; the rest as in `DetectionExample`."""

    place: int
    box: tuple
    label: int
    crowd: bool
    area: float


def check_invalid(invalid):
    """Raises a `ValueError` for an unknown way to treat annotations that break a rule."""
    if invalid not in _INVALID:
        raise ValueError(f"`invalid` must be one of {_INVALID}. Received: invalid={invalid!r}")


def are_finite(numbers):
    """Whether all numbers, ints or floats, are finite as floats."""
    try:
        return all(map(math.isfinite, numbers))
    except OverflowError:  # An int beyond the floats.
        return False


def visible_box(box, height, width):
    """Returns the part of a box inside its image.

    People draw boxes a little past the edge, and what is outside cannot be seen: such a
    box is cut. One that is wholly outside belongs to another image, or is in other units.

    Args:
        box: left, top, right and bottom, pixels.
        height, width: of the image.

    Raises:
        BadAnnotation: for a box that is not finite, has no area, or lies outside.
    """
    if not are_finite(box):
        raise BadAnnotation("number that is not finite")
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise BadAnnotation("box without area")
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise BadAnnotation("box outside the image")
    return left, top, right, bottom


def box_area(box):
    """Returns the area of a box, left, top, right and bottom."""
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def collect(annotations, read, invalid_annotations):
    """Reads annotations, and notes those that break a rule.

    Args:
        annotations: iterable of (id, annotation).
        read: function of an annotation, which may raise `BadAnnotation`.
        invalid_annotations: {rule: [ids]}; added to.

    Returns:
        List of what `read` returned.
    """
    objects = []
    for annotation_id, annotation in annotations:
        try:
            objects.append(read(annotation))
        except BadAnnotation as error:
            invalid_annotations.setdefault(str(error), []).append(annotation_id)
    return objects


def settle(source, invalid_annotations, invalid):
    """Raises a `ValueError` for invalid_annotations, unless their annotations are to be left out."""
    if not invalid_annotations or invalid == "drop":
        return
    listed = [
        f"{len(ids)} × {rule} ({', '.join(map(str, ids[:_NAMED]))}{', …' * (len(ids) > _NAMED)})"
        for rule, ids in invalid_annotations.items()
    ]
    raise ValueError(
        f"{source} breaks rules, here with the first ids: {'; '.join(listed)}. "
        'Mend it, or leave these out with `invalid="drop"`.'
    )


def as_arrays(objects):
    """Returns boxes (objects, 4), labels, crowd and areas, as in `DetectionExample`."""
    return (
        np.array([each.box for each in objects], "float64").reshape(-1, 4),
        np.array([each.label for each in objects], "int64"),
        np.array([each.crowd for each in objects], "bool"),
        np.array([each.area for each in objects], "float64"),
    )


class AnnotatedImages:
    """A sequence of `DetectionExample`s whose images are files.

    An image's size is compared with the listed one when its example is asked for.

    Args:
        source: what errors name.
        images: list of `ListedImage`s.
        annotations: iterable of (id, annotation).
        read: function that makes an `AnnotatedObject` of an annotation.
        invalid: `"raise"` or `"drop"`.

    Attributes:
        invalid_annotations: {rule: [ids]}, the annotations and images that were left out.

    Raises:
        ValueError: for annotations that break rules, unless they are dropped.
    """

    def __init__(self, source, images, annotations, read, invalid):
        check_invalid(invalid)
        self.invalid_annotations = {}
        objects = collect(annotations, read, self.invalid_annotations)
        missing = missing_files([image.path for image in images])
        if missing:
            ids = [image.image_id for image in images if image.path in missing]
            self.invalid_annotations["missing image file"] = ids
        settle(source, self.invalid_annotations, invalid)
        self._source = source
        # Flat arrays, which cost worker processes less than a list of objects.
        objects.sort(key=lambda each: each.place)
        self._arrays = as_arrays(objects)
        starts = np.searchsorted([each.place for each in objects], range(len(images) + 1))
        self._images = [
            (image, slice(start, end))
            for image, start, end in zip(images, starts[:-1], starts[1:], strict=True)
            if image.path not in missing
        ]

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, rows = self._images[index]
        height, width = image_size(image.path)
        if (height, width) != (image.height, image.width):
            raise ValueError(
                f"{image.path} is {width} wide and {height} high as it is viewed, "
                f"but {self._source} says {image.width} and {image.height}."
            )
        # Copies, so that whoever changes an example does not change the data set.
        return DetectionExample(
            image.path, image.image_id, *(each[rows].copy() for each in self._arrays)
        )
