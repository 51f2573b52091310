"""A labelled image data set in memory."""

import typing

import numpy as np


class LabelledImages(typing.NamedTuple):
    """images: (count, height, width, 3) uint8; labels: (count,) int64."""

    images: np.ndarray
    labels: np.ndarray


class ImageSplits(typing.NamedTuple):
    """The parts of a data set; no image is in two of them."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: list
