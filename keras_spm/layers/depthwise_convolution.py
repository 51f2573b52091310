"""Depthwise convolution with explicit padding."""

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.initializers import conv_initializer


@keras.saving.register_keras_serializable("keras_spm")
class DepthwiseConv2D(keras.layers.Layer):
    """Convolves each channel with its own k x k kernel, padded by k // 2 on every side.

    Keras's "same" pads by what the stride leaves over, which differs from the
    PyTorch convention for strides above 1. How it is computed is chosen for each
    platform, see `keras_spm.backend`.

    Args:
        kernel_size: odd int.
        strides: int, the same along both axes.
        use_bias: bool.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / strides),
    ceil(width / strides), channels).
    """

    def __init__(self, kernel_size, strides=1, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd. Received: kernel_size={kernel_size}")
        self.kernel_size = kernel_size
        self.strides = strides
        self.use_bias = use_bias
        # What Keras's jit_compile="auto" asks of every layer.
        self.supports_jit = backend.depthwise_supports_xla()

    def build(self, input_shape):
        channels = input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, channels, 1),
            initializer=conv_initializer(),
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")

    def call(self, inputs):
        kernel = ops.convert_to_tensor(self.kernel)
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        return backend.depthwise_conv2d(inputs, kernel, self.strides, self.kernel_size // 2, bias)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (
            batch,
            ceil_divide(height, self.strides),
            ceil_divide(width, self.strides),
            channels,
        )

    def macs(self, input_shape):
        _, height, width, channels = self.compute_output_shape(input_shape)
        return height * width * channels * self.kernel_size**2

    def get_config(self):
        config = {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "use_bias": self.use_bias,
        }
        return {**super().get_config(), **config}


def ceil_divide(size, divisor):
    """ceil(size / divisor) of a static size, an unknown one (None) or a tensor."""
    return None if size is None else (size - 1) // divisor + 1
