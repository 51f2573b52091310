"""Convolution with explicit padding."""

import math

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.initializers import conv_initializer


@keras.saving.register_keras_serializable("keras_spm")
class Conv2D(keras.layers.Layer):
    """Convolves all channels with k x k kernels, padded by the same on every side.

    Keras's "same" pads by what the stride leaves over, which differs from the PyTorch
    convention for strides above 1. How it is computed is chosen for each platform, see
    `keras_spm.backend`.

    Args:
        filters: int, channels of the output.
        kernel_size: int.
        strides: int, the same along both axes.
        padding: int, zeros on each of the four sides.

    Input: (batch, height, width, channels). Output: (batch, out_height, out_width,
    filters) with `out = (size + 2 * padding - kernel_size) // strides + 1`.
    """

    def __init__(self, filters, kernel_size, strides=1, padding=0, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=conv_initializer(),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, inputs):
        kernel, bias = ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias)
        return backend.conv2d(inputs, kernel, self.strides, self.padding, bias)

    def compute_output_shape(self, input_shape):
        batch, *sizes, _ = input_shape
        border = 2 * self.padding - self.kernel_size
        sizes = (None if size is None else (size + border) // self.strides + 1 for size in sizes)
        return (batch, *sizes, self.filters)

    def macs(self, input_shape):
        taps = self.kernel_size**2 * input_shape[-1]
        return math.prod(self.compute_output_shape(input_shape)[1:]) * taps

    def get_config(self):
        config = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }
        return {**super().get_config(), **config}
