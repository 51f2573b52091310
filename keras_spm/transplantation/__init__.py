"""Pretrained initialization of Stepwise Patch Merging in a pretrained network."""

from keras_spm.transplantation.matching import MergingFit, TransplantReport
from keras_spm.transplantation.transplant import transplant

__all__ = ["MergingFit", "TransplantReport", "transplant"]
