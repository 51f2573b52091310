"""Backbones, one family a file."""

from keras_spm.backbones.mit import MiT, MiTSPM
from keras_spm.backbones.pvt import PVT, PVTSPM
from keras_spm.backbones.pvt_v2 import PVTv2, PVTv2SPM
from keras_spm.backbones.pyramid_backbone import PyramidBackbone
from keras_spm.backbones.swin import Swin, SwinSPM

__all__ = [
    "MiT",
    "MiTSPM",
    "PVT",
    "PVTSPM",
    "PVTv2",
    "PVTv2SPM",
    "PyramidBackbone",
    "Swin",
    "SwinSPM",
]
