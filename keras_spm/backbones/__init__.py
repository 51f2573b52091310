"""Backbones, one family a file."""

from keras_spm.backbones.pvt import PVT
from keras_spm.backbones.pvt import PVTSPM
from keras_spm.backbones.pvt_v2 import PVTv2
from keras_spm.backbones.pvt_v2 import PVTv2SPM
from keras_spm.backbones.pyramid_backbone import PyramidBackbone
from keras_spm.backbones.swin import Swin
from keras_spm.backbones.swin import SwinSPM

__all__ = ["PVT", "PVTSPM", "PVTv2", "PVTv2SPM", "PyramidBackbone", "Swin", "SwinSPM"]
