"""Readers of data sets, preprocessing, batching and augmentation."""

from keras_spm.data.ade20k import Ade20k
from keras_spm.data.batching import DetectionBatching, ImageBatching
from keras_spm.data.classification_augmentation import ClassificationAugmentation, Mixing
from keras_spm.data.coco import CocoDetection
from keras_spm.data.csv_dataset import CsvDataset
from keras_spm.data.digit_scenes import DigitScenes
from keras_spm.data.digits import ImageSplits, load_dataset, load_digits
from keras_spm.data.image_folder import ImageFolder
from keras_spm.data.images import EncodedImage
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.data.readers import register_reader
from keras_spm.data.segmentation_augmentation import SegmentationAugmentation
from keras_spm.data.tfds import TfdsAde20k, TfdsClassification, TfdsCoco
from keras_spm.data.voc import VocDetection, VocSegmentation

__all__ = [
    "Ade20k",
    "ClassificationAugmentation",
    "CocoDetection",
    "CsvDataset",
    "DetectionBatching",
    "DigitScenes",
    "EncodedImage",
    "ImageBatching",
    "ImageFolder",
    "ImagePreprocessing",
    "ImageSplits",
    "Mixing",
    "SegmentationAugmentation",
    "TfdsAde20k",
    "TfdsClassification",
    "TfdsCoco",
    "VocDetection",
    "VocSegmentation",
    "load_dataset",
    "load_digits",
    "register_reader",
]
