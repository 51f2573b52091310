"""Heads on feature pyramids: layers from {"P2": …, "P5": …} to what a task needs."""

from keras_spm.heads.anchors import Anchors
from keras_spm.heads.feature_pyramid import FeaturePyramid
from keras_spm.heads.retinanet import RetinaNetHead
from keras_spm.heads.semantic_fpn import SemanticFPNHead

__all__ = ["Anchors", "FeaturePyramid", "RetinaNetHead", "SemanticFPNHead"]
