"""Data sets by name and readers of others', preprocessing, batching and augmentation."""

from keras_spm.data.ade20k import Ade20k
from keras_spm.data.batching import DetectionBatching
from keras_spm.data.batching import ImageBatching
from keras_spm.data.coco import CocoDetection
from keras_spm.data.csv_dataset import CsvDataset
from keras_spm.data.digit_scenes import DigitScenes
from keras_spm.data.digits import load_digits
from keras_spm.data.examples import ClassificationExample
from keras_spm.data.examples import DetectionExample
from keras_spm.data.examples import EncodedImage
from keras_spm.data.examples import SegmentationExample
from keras_spm.data.image_folder import ImageFolder
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.data.segmentation_augmentation import SegmentationAugmentation
from keras_spm.data.splits import ImageSplits
from keras_spm.data.tfds import TfdsAde20k
from keras_spm.data.tfds import TfdsClassification
from keras_spm.data.tfds import TfdsCoco
from keras_spm.data.voc import VocDetection
from keras_spm.data.voc import VocSegmentation
from keras_spm.registry import lookup

_DATASETS = {"digits": load_digits}


def load_dataset(name):
    """Returns the `ImageSplits` of a data set by name.

    Raises:
        ValueError: for an unknown name; says the nearest.
    """
    return lookup("data set", name, _DATASETS)()


__all__ = [
    "ClassificationExample",
    "CocoDetection",
    "DetectionBatching",
    "DetectionExample",
    "DigitScenes",
    "EncodedImage",
    "ImageBatching",
    "ImageFolder",
    "ImagePreprocessing",
    "ImageSplits",
    "CsvDataset",
    "Ade20k",
    "SegmentationAugmentation",
    "SegmentationExample",
    "TfdsClassification",
    "TfdsCoco",
    "TfdsAde20k",
    "VocDetection",
    "VocSegmentation",
    "load_dataset",
    "load_digits",
]
