"""Heads on feature pyramids: layers from {"P2": …, "P5": …} to the outputs of a task."""

from keras_spm.heads.anchors import Anchors
from keras_spm.heads.box_coder import BoxCoder
from keras_spm.heads.faster_rcnn import FasterRCNN
from keras_spm.heads.feature_pyramid import FeaturePyramid
from keras_spm.heads.head import Head
from keras_spm.heads.mask_rcnn import MaskRCNN
from keras_spm.heads.matcher import BalancedSampler, Matcher
from keras_spm.heads.nms import non_max_suppression
from keras_spm.heads.retinanet import RetinaNet
from keras_spm.heads.roi_align import roi_align
from keras_spm.heads.segformer_head import SegFormerHead
from keras_spm.heads.semantic_fpn import SemanticFPN
from keras_spm.heads.upernet import UPerNet

__all__ = [
    "Anchors",
    "BalancedSampler",
    "BoxCoder",
    "FasterRCNN",
    "FeaturePyramid",
    "Head",
    "MaskRCNN",
    "Matcher",
    "RetinaNet",
    "SegFormerHead",
    "SemanticFPN",
    "UPerNet",
    "non_max_suppression",
    "roi_align",
]
