"""The exact GELU."""

import math

import keras
from keras import ops


def gelu(inputs):
    """Returns `inputs * (1 + erf(inputs / sqrt(2))) / 2`, computed in float32 or more.

    Keras's own form goes by the complementary error function, which takes XLA an
    exponential and two selections more for each value, and TensorFlow a pass more over
    the map.
    """
    if keras.config.backend() == "torch":
        return ops.gelu(inputs, approximate=False)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    values = ops.cast(inputs, keras.backend.result_type(dtype, "float32"))
    return ops.cast(values * (0.5 + 0.5 * ops.erf(values * math.sqrt(0.5))), dtype)
