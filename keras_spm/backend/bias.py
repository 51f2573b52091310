"""What is added to every position of a map, formulated per framework.

Under TensorFlow it is named a bias, so that the graph optimizer makes it part of what comes
before, and its gradient is a matrix product: neither TensorFlow itself nor XLA adds up rows
as fast on CPU, 2.3 ms instead of 4.0 and 3.6 for eight 56x56 maps of 512 channels.
"""

import keras
from keras import ops


def add_bias(maps, bias):
    """Adds the bias to every position.

    Args:
        maps: (…, channels).
        bias: (channels,).
    """
    return _tensorflow(maps, bias) if keras.config.backend() == "tensorflow" else maps + bias


def sum_of_positions(maps):
    """Returns (channels,), the sum over all positions of (…, channels), made in float32."""
    rows = ops.reshape(maps, (-1, maps.shape[-1]))
    rows = ops.cast(rows, keras.backend.result_type(rows.dtype, "float32"))
    return ops.cast(ops.matmul(ops.ones_like(rows[:, 0]), rows), maps.dtype)


def _tensorflow(maps, bias):
    import tensorflow as tf

    @tf.custom_gradient
    def added(maps, bias):
        def gradients(upstream):
            return upstream, sum_of_positions(upstream)

        return tf.nn.bias_add(maps, bias), gradients

    return added(maps, tf.convert_to_tensor(bias))  # Not the variable itself.
