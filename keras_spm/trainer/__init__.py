"""The engine behind `training/`: recipes, run folders, the command."""

from keras_spm.trainer.classification import train_classifier
from keras_spm.trainer.command import main
from keras_spm.trainer.detection import train_detector
from keras_spm.trainer.errors import TrainingError
from keras_spm.trainer.recipe import ClassificationRecipe
from keras_spm.trainer.recipe import DetectionRecipe
from keras_spm.trainer.recipe import SegmentationRecipe
from keras_spm.trainer.recipe import load_recipe
from keras_spm.trainer.run_folder import RunFolder
from keras_spm.trainer.segmentation import train_segmenter

__all__ = [
    "ClassificationRecipe",
    "DetectionRecipe",
    "RunFolder",
    "SegmentationRecipe",
    "TrainingError",
    "load_recipe",
    "main",
    "train_classifier",
    "train_detector",
    "train_segmenter",
]
