"""Readers of data sets, preprocessing, batching and augmentation."""

from keras_spm.data.ade20k import Ade20k
from keras_spm.data.batching import DetectionBatching, ImageBatching
from keras_spm.data.classes import read_classes
from keras_spm.data.classification_augmentation import ClassificationAugmentation, Mixing
from keras_spm.data.coco import CocoDetection
from keras_spm.data.csv_dataset import CsvDataset
from keras_spm.data.digit_scenes import DigitScenes
from keras_spm.data.digits import ImageSplits, load_dataset, load_digits
from keras_spm.data.image_folder import ImageFolder
from keras_spm.data.images import EncodedImage
from keras_spm.data.labelme import LabelmeDetection
from keras_spm.data.mask_folders import Cityscapes, MaskFolders
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.data.readers import register_reader
from keras_spm.data.segmentation_augmentation import SegmentationAugmentation
from keras_spm.data.splits import (
    DataSplits,
    read_classification,
    read_detection,
    read_instances,
    read_segmentation,
)
from keras_spm.data.tfds import TfdsAde20k, TfdsClassification, TfdsCoco
from keras_spm.data.voc import VocDetection
from keras_spm.data.voc_segmentation import VocInstances, VocSegmentation
from keras_spm.data.yolo import YoloDetection

__all__ = [
    "Ade20k",
    "Cityscapes",
    "ClassificationAugmentation",
    "CocoDetection",
    "CsvDataset",
    "DataSplits",
    "DetectionBatching",
    "DigitScenes",
    "EncodedImage",
    "ImageBatching",
    "ImageFolder",
    "ImagePreprocessing",
    "ImageSplits",
    "LabelmeDetection",
    "MaskFolders",
    "Mixing",
    "SegmentationAugmentation",
    "TfdsAde20k",
    "TfdsClassification",
    "TfdsCoco",
    "VocDetection",
    "VocInstances",
    "VocSegmentation",
    "YoloDetection",
    "load_dataset",
    "load_digits",
    "read_classes",
    "read_classification",
    "read_detection",
    "read_instances",
    "read_segmentation",
    "register_reader",
]
