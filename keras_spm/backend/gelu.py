"""The exact GELU, formulated per framework."""

import math

import keras
from keras import ops

from keras_spm.backend.fused_elementwise import fused_elementwise


def gelu(inputs):
    """Returns `inputs * (1 + erf(inputs / sqrt(2))) / 2`, computed in float32 or more.

    Keras's own form goes by the complementary error function, which takes XLA an
    exponential and two selections more for each value.
    """
    backend = keras.config.backend()
    if backend == "torch":
        return ops.gelu(inputs, approximate=False)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    values = ops.cast(inputs, keras.backend.result_type(dtype, "float32"))
    outputs = _tensorflow(values) if backend == "tensorflow" else _exact(values)
    return ops.cast(outputs, dtype)


def _exact(values):
    return values * _share(values)


def _share(values):
    """The normal distribution's cumulative function."""
    return 0.5 + 0.5 * ops.erf(values * math.sqrt(0.5))


def _tensorflow(values):
    """With a gradient that needs the values alone; TensorFlow keeps two more maps of their size."""
    import tensorflow as tf

    @tf.custom_gradient
    def exact(values):
        def gradient(upstream):
            return fused_elementwise(_gradient)(values, upstream)

        return fused_elementwise(_exact)(values), gradient

    return exact(values)


def _gradient(values, upstream):
    density = ops.exp(-0.5 * ops.square(values)) * (1 / math.sqrt(2 * math.pi))
    return upstream * (_share(values) + values * density)
