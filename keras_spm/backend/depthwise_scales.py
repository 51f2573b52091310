"""Depthwise convolutions of several sizes side by side, for inference.

Small kernels with zeros around them are one large kernel for all channels. PyTorch and
TensorFlow take less time for the zeros than for cutting the map into runs and putting it
together again; JAX, whose form on CPU goes tap by tap, does not. Four sizes from 3 to 9 on
eight 56x56 maps of 64 channels, apart and as one (two CPU cores, float32): PyTorch 4.3 and
2.7 ms, TensorFlow 6.1 and 4.5 ms, JAX 6.5 and 12.3 ms.
"""

import keras
from keras import ops

from keras_spm.backend.depthwise_convolution import depthwise_conv2d
from keras_spm.backend.padding import pad


def depthwise_scales_are_faster():
    """Returns whether `depthwise_scales` takes less time than the convolutions one by one."""
    return keras.config.backend() != "jax"


def depthwise_scales(inputs, kernels):
    """Convolves equal runs of channels with one kernel that is made of all of theirs.

    Args:
        inputs: (batch, height, width, channels).
        kernels: one for each run, (size, size, channels / scales, 1), sizes odd.

    Returns:
        (batch, height, width, scales, channels / scales)
    """
    largest = max(kernel.shape[0] for kernel in kernels)
    kernel = ops.concatenate([_enlarged(kernel, largest) for kernel in kernels], axis=2)
    outputs = depthwise_conv2d(inputs, kernel, 1, largest // 2)
    return ops.reshape(outputs, (*ops.shape(inputs)[:-1], len(kernels), kernels[0].shape[2]))


def _enlarged(kernel, size):
    border = (size - kernel.shape[0]) // 2
    return pad(kernel, ((border, border), (border, border), (0, 0), (0, 0)))
