"""Tasks: models from raw images to results, one a file."""

from keras_spm.tasks.image_classifier import ImageClassifier
from keras_spm.tasks.object_detector import ObjectDetector
from keras_spm.tasks.semantic_segmenter import SemanticSegmenter

__all__ = ["ImageClassifier", "ObjectDetector", "SemanticSegmenter"]
