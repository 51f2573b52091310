"""Elementwise operations and the exact GELU, formulated per framework.

TensorFlow's graph makes one pass over a map per operation, into new memory that the
operating system clears first. XLA makes one pass for all. It compiles only these functions,
as it has no fast depthwise convolution on CPU. PyTorch has one operation for each chain
that matters, and JAX compiles everything by XLA.
"""

import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from keras_spm.backend.exporting import is_exporting
from keras_spm.types import Tensor


def xla_compiled(function: Callable) -> Callable:
    """Returns the function of tensors; under TensorFlow compiled by XLA, once per shape.

    It must be defined at module level, as compiled functions are cached.
    """
    if keras.config.backend() != "tensorflow" or is_exporting():
        return function
    return _compiled(function)


@functools.cache
def _compiled(function):
    import tensorflow as tf

    return tf.function(function, jit_compile=True, reduce_retracing=True)


def gelu(inputs: Tensor) -> Tensor:
    """Returns `inputs * (1 + erf(inputs / sqrt(2))) / 2`, computed in float32 or more.

    Keras uses the complementary error function, which costs XLA one more exponential and
    two more selections per value.
    """
    backend = keras.config.backend()
    if backend == "torch":
        return ops.gelu(inputs, approximate=False)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    values = ops.cast(inputs, keras.backend.result_type(dtype, "float32"))
    if is_exporting():
        outputs = _exported_gelu(values)
    else:
        outputs = _tensorflow_gelu(values) if backend == "tensorflow" else _gelu(values)
    return ops.cast(outputs, dtype)


def _gelu(values):
    return values * _normal_cdf(values)


def _exported_gelu(values):
    """In the order of operations that LiteRT and ONNX Runtime know as GELU."""
    return 0.5 * values * (1.0 + ops.erf(values * math.sqrt(0.5)))


def _normal_cdf(values):
    return 0.5 + 0.5 * ops.erf(values * math.sqrt(0.5))


def _tensorflow_gelu(values):
    """A gradient that keeps only the values; TensorFlow's keeps two more maps."""
    import tensorflow as tf

    @tf.custom_gradient
    def exact(values):
        def gradient(upstream):
            return xla_compiled(_gelu_gradient)(values, upstream)

        return xla_compiled(_gelu)(values), gradient

    return exact(values)


def _gelu_gradient(values, upstream):
    density = ops.exp(-0.5 * ops.square(values)) * (1 / math.sqrt(2 * math.pi))
    return upstream * (_normal_cdf(values) + values * density)
