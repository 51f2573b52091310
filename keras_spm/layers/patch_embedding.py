"""Patch embeddings: the stems, and the mergings of PVT and PVT v2."""

import keras

from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.depthwise_convolution import ceil_divide
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.padding import pad_to_multiple


@keras.saving.register_keras_serializable("keras_spm")
class PatchEmbedding(keras.layers.Layer):
    """A linear map of each patch, then layer normalization.

    Patches do not overlap. Zeros at the bottom and right fill the last ones.

    Args:
        output_dim: int, channels of the output.
        patch_size: int, height and width of a patch.
        norm_epsilon: float, epsilon of the layer normalization.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / patch_size),
    ceil(width / patch_size), output_dim).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.2.
    """

    def __init__(self, output_dim, patch_size, norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.patch_size = patch_size
        self.norm_epsilon = norm_epsilon

    @property
    def _strides(self):
        return self.patch_size

    @property
    def _padding(self):
        return 0

    def build(self, input_shape):
        self.projection = Conv2D(
            self.output_dim,
            self.patch_size,
            self._strides,
            self._padding,
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm = LayerNormalization(
            epsilon=self.norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.projection.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs):
        return self.norm(self.projection(self._fill(inputs)))

    def _fill(self, maps):
        return pad_to_multiple(maps, self.patch_size)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return (
            batch,
            ceil_divide(height, self._strides),
            ceil_divide(width, self._strides),
            self.output_dim,
        )

    def macs(self, input_shape):
        _, rows, columns, _ = self.compute_output_shape(input_shape)
        return rows * columns * self.patch_size**2 * input_shape[-1] * self.output_dim

    def get_config(self):
        config = {
            "output_dim": self.output_dim,
            "patch_size": self.patch_size,
            "norm_epsilon": self.norm_epsilon,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_spm")
class OverlappingPatchEmbedding(PatchEmbedding):
    """A strided convolution over overlapping patches, then layer normalization.

    Args:
        output_dim: int, channels of the output.
        patch_size: odd int, the kernel; `patch_size // 2` zeros pad every side.
        strides: int, smaller than `patch_size`.
        norm_epsilon: float, epsilon of the layer normalization.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / strides),
    ceil(width / strides), output_dim).

    Reference:
        Wang et al., PVT v2, arXiv 2106.13797, section 3.2.
    """

    def __init__(self, output_dim, patch_size, strides, norm_epsilon=1e-5, **kwargs):
        super().__init__(output_dim, patch_size, norm_epsilon, **kwargs)
        if patch_size % 2 == 0 or patch_size <= strides:
            raise ValueError(
                "`patch_size` must be odd and larger than `strides`. "
                f"Received: patch_size={patch_size}, strides={strides}"
            )
        self.strides = strides

    @property
    def _strides(self):
        return self.strides

    @property
    def _padding(self):
        return self.patch_size // 2

    def _fill(self, maps):
        return maps

    def get_config(self):
        return {**super().get_config(), "strides": self.strides}
