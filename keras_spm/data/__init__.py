"""Data sets by name, and preprocessing and augmentation of images."""

from keras_spm.data.digits import load_digits
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.data.splits import ImageSplits
from keras_spm.registry import lookup

_DATASETS = {"digits": load_digits}


def load_dataset(name):
    """Returns the `ImageSplits` of a data set by name.

    Raises:
        ValueError: for an unknown name; says the nearest.
    """
    return lookup("data set", name, _DATASETS)()


__all__ = ["ImagePreprocessing", "ImageSplits", "load_dataset", "load_digits"]
