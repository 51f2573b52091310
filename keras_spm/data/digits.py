"""Handwritten digits that come with scikit-learn: real scans, nothing to download.

1,797 gray images of 8x8 pixels in 17 levels, made from the test split of "Optical
Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI Machine Learning
Repository, 1998).
"""

import numpy as np

from keras_spm.data.splits import ImageSplits
from keras_spm.data.splits import LabeledImages

IMAGE_SIZE = 32
_LEVELS = 16
_SPLIT_SEED = 0  # The split is split of the data set: it never varies.


def load_digits():
    """Returns the digits as `ImageSplits`, stratified 70 / 10 / 20 percent.

    Images are enlarged to 32x32 bilinearly, with three equal channels in [0, 255].
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images, labels = _enlarged(digits.images), digits.target.astype("int64")
    order = np.arange(len(labels))
    rest, test = train_test_split(order, test_size=0.2, stratify=labels, random_state=_SPLIT_SEED)
    train, validation = train_test_split(
        rest, test_size=1 / 8, stratify=labels[rest], random_state=_SPLIT_SEED
    )
    splits = (LabeledImages(images[split], labels[split]) for split in (train, validation, test))
    return ImageSplits(*splits, class_names=[str(digit) for digit in range(10)])


def _enlarged(scans):
    from PIL import Image

    gray = np.round(scans * (255 / _LEVELS)).astype("uint8")
    size = (IMAGE_SIZE, IMAGE_SIZE)
    large = [np.asarray(Image.fromarray(scan).resize(size, Image.BILINEAR)) for scan in gray]
    return np.repeat(np.stack(large)[..., None], 3, axis=-1)
