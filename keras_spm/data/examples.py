"""What a reader gives for one image."""

import dataclasses
import os
import typing

import numpy as np


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """An image file's bytes, from within another file.

    Attributes:
        content: bytes.
        source: str, what errors name.
    """

    content: bytes
    source: str


class ClassificationExample(typing.NamedTuple):
    """An image and its class, or its classes.

    Attributes:
        image: path of an image file, `EncodedImage`, or (height, width, 3) uint8.
        label: int from 0; or (classes,) float32 of 0 and 1, where an image may have several
            classes, or none.
    """

    image: str | os.PathLike | EncodedImage | np.ndarray
    label: int | np.ndarray


class DetectionExample(typing.NamedTuple):
    """An image and the objects in it.

    Attributes:
        image: path of an image file, or (height, width, 3) uint8.
        image_id: what its data set calls it, int or str.
        boxes: (objects, 4) float64: left, top, right and bottom in pixels, of the image as
            it is viewed. Pixels are unit squares, so the whole image is
            (0, 0, width, height).
        labels: (objects,) int64, from 0.
        crowd: (objects,) bool: neither right nor wrong to find, and never trained on.
        areas: (objects,) float64, pixels, as the annotation says.
    """

    image: str | os.PathLike | np.ndarray
    image_id: int | str
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


class SegmentationExample(typing.NamedTuple):
    """An image and the class of each of its pixels.

    Attributes:
        image: path of an image file, or (height, width, 3) uint8.
        segmentation_map: (height, width) uint8, classes from 0; 255 does not count.
    """

    image: str | os.PathLike | np.ndarray
    segmentation_map: np.ndarray
