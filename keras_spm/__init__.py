"""Vision backbones for Keras 3 with Stepwise Patch Merging, on TensorFlow, JAX and PyTorch.

The backend is that of Keras, see the environment variable `KERAS_BACKEND`.
"""

from keras_spm.environment import check_backend

check_backend()

from keras_spm import (
    backbones,  # noqa: E402
    callbacks,  # noqa: E402
    converters,  # noqa: E402
    data,  # noqa: E402
    heads,  # noqa: E402
    layers,  # noqa: E402
    losses,  # noqa: E402
    metrics,  # noqa: E402
    optimizers,  # noqa: E402
    presets,  # noqa: E402
    tasks,  # noqa: E402
    trainer,  # noqa: E402
    visualize,  # noqa: E402
    weights,  # noqa: E402
)
from keras_spm.backbones import (
    PVT,  # noqa: E402
    PVTSPM,  # noqa: E402
    PVTv2,  # noqa: E402
    PVTv2SPM,  # noqa: E402
    Swin,  # noqa: E402
    SwinSPM,  # noqa: E402
)
from keras_spm.converters import (
    list_layouts,  # noqa: E402
    load_torch_weights,  # noqa: E402
    to_torch_state_dict,  # noqa: E402
)
from keras_spm.fusion import fuse  # noqa: E402
from keras_spm.parity import compare  # noqa: E402
from keras_spm.presets import (
    list_presets,  # noqa: E402
    upload_preset,  # noqa: E402
)
from keras_spm.tasks import (
    ImageClassifier,  # noqa: E402
    ObjectDetector,  # noqa: E402
    SemanticSegmenter,  # noqa: E402
)
from keras_spm.version import __version__  # noqa: E402, F401

__all__ = [
    "ImageClassifier",
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
    "tasks",
    "to_torch_state_dict",
    "trainer",
    "upload_preset",
    "visualize",
    "weights",
]
