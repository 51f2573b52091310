"""The only package that may import a framework.

Each module here states one need as functions with the same name and meaning on
TensorFlow, JAX and PyTorch. Frameworks are imported inside functions, so that nobody
pays for one that they do not use.
"""

from keras_spm.backend.attention import dot_product_attention
from keras_spm.backend.batch_normalization import batch_normalization
from keras_spm.backend.batch_normalization import normalize
from keras_spm.backend.chunked import chunked_by_head
from keras_spm.backend.chunked import chunked_by_image
from keras_spm.backend.convolution import conv2d
from keras_spm.backend.dense import dense
from keras_spm.backend.depthwise_convolution import depthwise_conv2d
from keras_spm.backend.depthwise_convolution import depthwise_supports_xla
from keras_spm.backend.depthwise_scales import depthwise_scales
from keras_spm.backend.depthwise_scales import depthwise_scales_are_faster
from keras_spm.backend.fused_elementwise import fused_elementwise
from keras_spm.backend.gelu import gelu
from keras_spm.backend.grouped_pointwise import grouped_pointwise
from keras_spm.backend.layer_normalization import layer_normalization
from keras_spm.backend.padding import pad
from keras_spm.backend.random_state import random_state
from keras_spm.backend.random_state import set_random_state

__all__ = [
    "batch_normalization",
    "conv2d",
    "depthwise_conv2d",
    "depthwise_scales",
    "depthwise_scales_are_faster",
    "depthwise_supports_xla",
    "dot_product_attention",
    "gelu",
    "grouped_pointwise",
    "chunked_by_head",
    "chunked_by_image",
    "fused_elementwise",
    "layer_normalization",
    "dense",
    "normalize",
    "pad",
    "random_state",
    "set_random_state",
]
