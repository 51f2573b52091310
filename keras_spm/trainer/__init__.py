"""The engine behind `training/`: recipes, run folders, the command."""

from keras_spm.trainer.classification import train_classifier
from keras_spm.trainer.command import main
from keras_spm.trainer.recipe import ClassificationRecipe
from keras_spm.trainer.recipe import load_recipe
from keras_spm.trainer.run_folder import RunFolder

__all__ = ["ClassificationRecipe", "RunFolder", "load_recipe", "main", "train_classifier"]
