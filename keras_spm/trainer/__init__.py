"""Trains and evaluates tasks by recipes; `keras-spm train` and `evaluate` call it."""

from keras_spm.data.splits import DataSplits
from keras_spm.trainer.checkpoints import TrainingError
from keras_spm.trainer.classification import ClassificationRecipe
from keras_spm.trainer.dense import DenseRecipe
from keras_spm.trainer.detection import DetectionRecipe, InstancesRecipe, ObjectRecipe
from keras_spm.trainer.dry_run import dry_run
from keras_spm.trainer.evaluation import evaluate, find_recipe, load_keras_file, load_task
from keras_spm.trainer.recipe import Range, Recipe, Setup
from keras_spm.trainer.recipe_files import load_recipe, recipes_folder, recognized_tasks
from keras_spm.trainer.recipe_help import describe_recipes
from keras_spm.trainer.run_folder import RunFolder, find_run
from keras_spm.trainer.segmentation import SegmentationRecipe
from keras_spm.trainer.training import run, train

__all__ = [
    "ClassificationRecipe",
    "DataSplits",
    "DenseRecipe",
    "DetectionRecipe",
    "InstancesRecipe",
    "ObjectRecipe",
    "Range",
    "Recipe",
    "RunFolder",
    "SegmentationRecipe",
    "Setup",
    "TrainingError",
    "describe_recipes",
    "dry_run",
    "evaluate",
    "find_recipe",
    "find_run",
    "load_keras_file",
    "load_recipe",
    "load_task",
    "recipes_folder",
    "recognized_tasks",
    "run",
    "train",
]
