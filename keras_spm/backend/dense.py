"""The linear map of every position, formulated per framework.

A map is flattened to a matrix of positions first. XLA on CPU otherwise copies the
gradient of the outputs into the transposed layout before it makes the kernel's: a step of
64 to 512 channels on eight 56x56 maps takes 50 ms flat and 151 ms on maps (two cores,
float32). PyTorch adds the bias within the product. TensorFlow makes the kernel's gradient
faster where the narrower of the two maps is the one it transposes: 11 ms instead of 17 for
512 to 64 channels.
"""

import keras
from keras import ops

from keras_spm.backend.bias import add_bias


def dense(inputs, kernel, bias=None):
    """Maps the channels.

    Args:
        inputs: (…, channels).
        kernel: (channels, units).
        bias: optional (units,).

    Returns:
        (…, units)
    """
    if keras.config.backend() == "torch":
        import torch

        return torch.nn.functional.linear(inputs, kernel.t(), bias)
    *leading, channels = ops.shape(inputs)
    product = _tensorflow if keras.config.backend() == "tensorflow" else ops.matmul
    outputs = product(ops.reshape(inputs, (-1, channels)), kernel)
    if bias is not None:
        outputs = add_bias(outputs, bias)
    # One size may be unknown, and is then what is left.
    return ops.reshape(outputs, (*leading, kernel.shape[1]))


def _tensorflow(inputs, kernel):
    import tensorflow as tf

    @tf.custom_gradient
    def product(inputs, kernel):
        def gradients(upstream):
            by_inputs = tf.matmul(upstream, kernel, transpose_b=True)
            if kernel.shape[0] < kernel.shape[1]:
                return by_inputs, tf.matmul(inputs, upstream, transpose_a=True)
            by_transposed = tf.matmul(upstream, inputs, transpose_a=True)
            return by_inputs, tf.transpose(by_transposed)

        return tf.matmul(inputs, kernel), gradients

    return product(inputs, tf.convert_to_tensor(kernel))  # Not the variable itself.
