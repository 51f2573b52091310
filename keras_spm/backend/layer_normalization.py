"""Normalization of every position by its own channels, formulated per framework.

Under TensorFlow forward and gradient are one pass each over the map, and the gradient needs
the inputs alone.
"""

import keras
from keras import ops

from keras_spm.backend.bias import sum_of_positions
from keras_spm.backend.fused_elementwise import fused_elementwise


def layer_normalization(inputs, gamma, beta, epsilon):
    """Normalizes the last axis to mean 0 and variance 1, then scales and shifts it.

    Args:
        inputs: (…, channels).
        gamma: (channels,), the scale.
        beta: (channels,), the offset.
        epsilon: float, added to the variance.

    Returns:
        Like `inputs`; computed in float32 or more.
    """
    if keras.config.backend() != "tensorflow":
        return ops.layer_normalization(inputs, gamma, beta, -1, epsilon)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    compute_dtype = keras.backend.result_type(dtype, "float32")
    inputs, gamma, beta = (ops.cast(each, compute_dtype) for each in (inputs, gamma, beta))
    return ops.cast(_tensorflow(inputs, gamma, beta, epsilon), dtype)


def _tensorflow(inputs, gamma, beta, epsilon):
    import tensorflow as tf

    @tf.custom_gradient
    def normalized(inputs, gamma, beta):
        def gradients(upstream):
            by_inputs, scaled = fused_elementwise(_gradients)(inputs, gamma, upstream, epsilon)
            return by_inputs, sum_of_positions(scaled), sum_of_positions(upstream)

        return fused_elementwise(_outputs)(inputs, gamma, beta, epsilon), gradients

    return normalized(inputs, gamma, beta)


def _standardized(inputs, epsilon):
    """Returns the inputs at mean 0 and variance 1, and what their deviations were scaled by."""
    deviations = inputs - ops.mean(inputs, axis=-1, keepdims=True)
    scale = ops.rsqrt(ops.mean(ops.square(deviations), axis=-1, keepdims=True) + epsilon)
    return deviations * scale, scale


def _outputs(inputs, gamma, beta, epsilon):
    standardized, _ = _standardized(inputs, epsilon)
    return standardized * gamma + beta


def _gradients(inputs, gamma, upstream, epsilon):
    """Returns the gradient of the inputs, and what summed up is that of gamma."""
    standardized, scale = _standardized(inputs, epsilon)
    by_standardized = upstream * gamma
    mean = ops.mean(by_standardized, axis=-1, keepdims=True)
    share = ops.mean(by_standardized * standardized, axis=-1, keepdims=True)
    by_inputs = scale * (by_standardized - mean - standardized * share)
    return by_inputs, upstream * standardized
