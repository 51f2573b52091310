"""The only package that may import a framework.

Each function has the same meaning under TensorFlow, JAX and PyTorch. Frameworks are
imported inside functions, so that only the active one is loaded.
"""

from keras_spm.backend.attention import dot_product_attention
from keras_spm.backend.chunked import chunked_by_image
from keras_spm.backend.convolution import (
    conv2d,
    depthwise_conv2d,
    depthwise_scales,
    depthwise_scales_are_faster,
    depthwise_supports_xla,
)
from keras_spm.backend.dense import dense, grouped_pointwise, has_slow_int8_product, int8_product
from keras_spm.backend.elementwise import gelu, xla_compiled
from keras_spm.backend.exporting import (
    export_mode,
    is_exporting,
    max_size,
    min_size,
    roll,
    rows_from,
    scalar,
    take,
    take_along_rows,
    while_loop,
)
from keras_spm.backend.gradient import gradient
from keras_spm.backend.guided_attention import guided_attention, guided_attention_weights
from keras_spm.backend.normalization import (
    affine,
    batch_normalization,
    layer_normalization,
    normalize,
    scale_channels,
    scaled,
)
from keras_spm.backend.parts import filled_in_step
from keras_spm.backend.replicas import count_per_replica, has_parts, is_writer, sum_over_rows
from keras_spm.backend.resizing import pad, resize_bilinear, resize_on_host
from keras_spm.backend.sharded_data import evaluated_together
from keras_spm.backend.trainer import SafeTrainer, scale_for_replicas, state_scope
from keras_spm.backend.training import (
    bytes_kept_for_gradient,
    random_state,
    set_random_state,
    track_again,
)

__all__ = [
    "SafeTrainer",
    "affine",
    "batch_normalization",
    "bytes_kept_for_gradient",
    "chunked_by_image",
    "conv2d",
    "count_per_replica",
    "dense",
    "depthwise_conv2d",
    "depthwise_scales",
    "depthwise_scales_are_faster",
    "depthwise_supports_xla",
    "dot_product_attention",
    "evaluated_together",
    "export_mode",
    "filled_in_step",
    "gelu",
    "gradient",
    "grouped_pointwise",
    "guided_attention",
    "guided_attention_weights",
    "has_parts",
    "has_slow_int8_product",
    "int8_product",
    "is_exporting",
    "is_writer",
    "layer_normalization",
    "max_size",
    "min_size",
    "normalize",
    "pad",
    "random_state",
    "resize_bilinear",
    "resize_on_host",
    "roll",
    "rows_from",
    "scalar",
    "scale_channels",
    "scale_for_replicas",
    "scaled",
    "set_random_state",
    "state_scope",
    "sum_over_rows",
    "take",
    "take_along_rows",
    "track_again",
    "while_loop",
    "xla_compiled",
]
