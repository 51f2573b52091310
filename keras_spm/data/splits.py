"""A labeled image data set in memory."""

import typing

import numpy as np


class LabeledImages(typing.NamedTuple):
    """images: (count, height, width, 3) uint8; labels: (count,) int64."""

    images: np.ndarray
    labels: np.ndarray


class ImageSplits(typing.NamedTuple):
    """The splits of a data set; no image is in two of them."""

    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    class_names: list
