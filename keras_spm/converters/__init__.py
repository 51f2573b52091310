"""Conversion between this package and PyTorch code bases, one family per file.

A family or a head registers its tensor names with `register_layouts` and its configurations in
transformers or timm with `register_config`. Families of other packages can do the same.
"""

from keras_spm.converters import (
    detection_heads,  # noqa: F401
    mit,  # noqa: F401
    pvt,  # noqa: F401
    pvt_v2,  # noqa: F401
    segmentation_heads,  # noqa: F401
    stepwise_patch_merging,  # noqa: F401
    swin,  # noqa: F401
)
from keras_spm.converters.conversion import (
    list_layouts,
    load_torch_weights,
    register_layouts,
    to_torch_state_dict,
)
from keras_spm.converters.hf_config import register_config, register_task_config

__all__ = [
    "list_layouts",
    "load_torch_weights",
    "register_config",
    "register_layouts",
    "register_task_config",
    "to_torch_state_dict",
]
