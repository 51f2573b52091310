"""Tasks: models from raw images to results, one a file."""

from keras_spm.tasks.image_classifier import ImageClassifier

__all__ = ["ImageClassifier"]
