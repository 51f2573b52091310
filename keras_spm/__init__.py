"""Vision backbones for Keras 3 with Stepwise Patch Merging, on TensorFlow, JAX and PyTorch.

The backend is that of Keras, see the environment variable `KERAS_BACKEND`.
"""

from keras_spm.environment import check_backend

check_backend()

from keras_spm import (
    backbones,
    callbacks,
    converters,
    data,
    export,
    heads,
    layers,
    losses,
    metrics,
    optimizers,
    presets,
    tasks,
    trainer,
    visualize,
    weights,
)
from keras_spm.backbones import PVT, PVTSPM, MiT, MiTSPM, PVTv2, PVTv2SPM, Swin, SwinSPM
from keras_spm.converters import list_layouts, load_torch_weights, to_torch_state_dict
from keras_spm.distribution import data_parallel
from keras_spm.fusion import fuse, spm_only
from keras_spm.parity import compare
from keras_spm.presets import list_presets, upload_preset
from keras_spm.tasks import ImageClassifier, InstanceSegmenter, ObjectDetector, SemanticSegmenter
from keras_spm.transplantation import transplant
from keras_spm.version import __version__

__all__ = [
    "ImageClassifier",
    "InstanceSegmenter",
    "MiT",
    "MiTSPM",
    "ObjectDetector",
    "PVT",
    "PVTSPM",
    "PVTv2",
    "PVTv2SPM",
    "SemanticSegmenter",
    "Swin",
    "SwinSPM",
    "backbones",
    "callbacks",
    "compare",
    "converters",
    "data",
    "data_parallel",
    "export",
    "fuse",
    "heads",
    "layers",
    "list_layouts",
    "list_presets",
    "load_torch_weights",
    "losses",
    "metrics",
    "optimizers",
    "presets",
    "spm_only",
    "tasks",
    "to_torch_state_dict",
    "trainer",
    "transplant",
    "upload_preset",
    "visualize",
    "weights",
]
