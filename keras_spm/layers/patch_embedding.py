"""Overlapping patch embedding, the stem and the merging of PVT v2."""

import keras
from keras import ops

from keras_spm.layers.depthwise_convolution import ceil_divide
from keras_spm.layers.initializers import convolution_initializer
from keras_spm.layers.multiply_adds import multiply_adds


@keras.saving.register_keras_serializable("keras_spm")
class OverlappingPatchEmbedding(keras.layers.Layer):
    """A strided convolution over overlapping patches, then layer normalisation.

    Args:
        output_dim: int, channels of the output.
        patch_size: odd int, the kernel; `patch_size // 2` zeros pad every side.
        strides: int, smaller than `patch_size`.
        norm_epsilon: float, epsilon of the layer normalisation.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / strides),
    ceil(width / strides), output_dim).

    Reference:
        Wang et al., PVT v2, arXiv 2106.13797, section 3.2.
    """

    def __init__(self, output_dim, patch_size, strides, norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        if patch_size % 2 == 0 or patch_size <= strides:
            raise ValueError(
                "`patch_size` must be odd and larger than `strides`. "
                f"Received: patch_size={patch_size}, strides={strides}"
            )
        self.output_dim = output_dim
        self.patch_size = patch_size
        self.strides = strides
        self.norm_epsilon = norm_epsilon
        self.projection = keras.layers.Conv2D(
            output_dim,
            patch_size,
            strides,
            padding="valid",
            data_format="channels_last",
            kernel_initializer=convolution_initializer(),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=norm_epsilon, dtype=self.dtype_policy, name="norm"
        )

    def build(self, input_shape):
        self.projection.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs):
        padding = (self.patch_size // 2, self.patch_size // 2)
        padded = ops.pad(inputs, ((0, 0), padding, padding, (0, 0)))
        return self.norm(self.projection(padded))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return (
            batch,
            ceil_divide(height, self.strides),
            ceil_divide(width, self.strides),
            self.output_dim,
        )

    def multiply_adds(self, input_shape):
        batch, height, width, channels = input_shape
        border = self.patch_size - 1
        return multiply_adds(self.projection, (batch, height + border, width + border, channels))

    def get_config(self):
        config = {
            "output_dim": self.output_dim,
            "patch_size": self.patch_size,
            "strides": self.strides,
            "norm_epsilon": self.norm_epsilon,
        }
        return {**super().get_config(), **config}
