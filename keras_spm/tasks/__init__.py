"""Tasks: models from raw images to results, one per file."""

from keras_spm.tasks.image_classifier import ImageClassifier
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.instance_segmenter import InstanceSegmenter
from keras_spm.tasks.object_detector import ObjectDetector
from keras_spm.tasks.prediction_formats import PredictedImage, PredictionFormat
from keras_spm.tasks.semantic_segmenter import SemanticSegmenter

__all__ = [
    "ImageClassifier",
    "ImageTask",
    "InstanceSegmenter",
    "ObjectDetector",
    "PredictedImage",
    "PredictionFormat",
    "SemanticSegmenter",
]
