"""Handwritten digits that are installed with scikit-learn, without a download.

1,797 grayscale images of 8x8 pixels with 17 levels: the test split of "Optical Recognition of
Handwritten Digits" (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998).
"""

from typing import NamedTuple

import numpy as np

from keras_spm.registry import lookup

IMAGE_SIZE = 32
_LEVELS = 16
_SPLIT_SEED = 0  # The splits are part of the data set and never change.


class LabeledImages(NamedTuple):
    """Labeled images in memory."""

    images: np.ndarray  # (count, height, width, 3) uint8
    labels: np.ndarray  # (count,) int64


class ImageSplits(NamedTuple):
    """The splits of a data set in memory; no image is in two of them."""

    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    class_names: list[str]


def load_digits() -> ImageSplits:
    """Returns the digits, in stratified splits of 70, 10 and 20 percent.

    Images are resized to 32x32 bilinearly, with three equal channels in [0, 255].
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    gray = np.round(digits.images * (255 / _LEVELS)).astype("uint8")
    size = (IMAGE_SIZE, IMAGE_SIZE)
    large = [np.asarray(Image.fromarray(scan).resize(size, Image.BILINEAR)) for scan in gray]
    images = np.repeat(np.stack(large)[..., None], 3, axis=-1)
    labels = digits.target.astype("int64")
    order = np.arange(len(labels))
    rest, test = train_test_split(order, test_size=0.2, stratify=labels, random_state=_SPLIT_SEED)
    train, validation = train_test_split(
        rest, test_size=1 / 8, stratify=labels[rest], random_state=_SPLIT_SEED
    )
    splits = (LabeledImages(images[split], labels[split]) for split in (train, validation, test))
    return ImageSplits(*splits, class_names=[str(digit) for digit in range(10)])


def load_dataset(name: str) -> ImageSplits:
    """Loads a data set in memory by name; the only one is `"digits"`.

    Raises:
        ValueError: if the name is unknown.
    """
    return lookup("data set", name, {"digits": load_digits})()
