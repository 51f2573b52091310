"""The engine behind `training/`: recipes, run folders, the commands."""

from keras_spm.trainer.classification import train_classifier
from keras_spm.trainer.command import add_training_arguments
from keras_spm.trainer.command import main
from keras_spm.trainer.command import run_training
from keras_spm.trainer.detection import train_detector
from keras_spm.trainer.errors import TrainingError
from keras_spm.trainer.evaluation import add_evaluation_arguments
from keras_spm.trainer.evaluation import evaluate
from keras_spm.trainer.evaluation import load_task
from keras_spm.trainer.evaluation import run_evaluation
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
    "add_evaluation_arguments",
    "add_training_arguments",
    "evaluate",
    "load_recipe",
    "load_task",
    "main",
    "run_evaluation",
    "run_training",
    "train_classifier",
    "train_detector",
    "train_segmenter",
]
