"""Backbones, one family a file."""

from keras_spm.backbones.pvt_v2 import PVTv2
from keras_spm.backbones.pvt_v2 import PVTv2SPM
from keras_spm.backbones.pyramid_backbone import PyramidBackbone

__all__ = ["PVTv2", "PVTv2SPM", "PyramidBackbone"]
