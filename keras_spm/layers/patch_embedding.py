"""Patch embeddings: the stems, and the patch mergings of PVT and PVT v2."""

from typing import Any

import keras

from keras_spm.layers.composite import CompositeLayer
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.layers.padding import ceil_divide
from keras_spm.layers.padding import pad_to_multiple
from keras_spm.types import Shape
from keras_spm.types import Tensor


@keras.saving.register_keras_serializable("keras_spm")
class PatchEmbedding(CompositeLayer):
    """A linear projection of non-overlapping patches, then layer normalization.

    Maps are padded with zeros at the bottom and right to whole patches.

    Args:
        output_dim: int, channels of the output.
        patch_size: int, height and width of a patch.
        norm_epsilon: float, epsilon of the layer normalization.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / patch_size),
    ceil(width / patch_size), output_dim).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.2.
    """

    def __init__(
        self, output_dim: int, patch_size: int, norm_epsilon: float = 1e-5, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.patch_size = patch_size
        self.norm_epsilon = norm_epsilon

    @property
    def _strides(self) -> int:
        return self.patch_size

    @property
    def _padding(self) -> int:
        return 0

    def build(self, input_shape: Shape) -> None:
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
        self.projection.build(self._padded_shape(input_shape))
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Tensor) -> Tensor:
        return self.norm(self.projection(self._pad(inputs)))

    def _pad(self, maps: Tensor) -> Tensor:
        return pad_to_multiple(maps, self.patch_size)

    def _padded_shape(self, input_shape: Shape) -> Shape:
        batch, *sizes, channels = input_shape
        sizes = [None if size is None else size + -size % self.patch_size for size in sizes]
        return (batch, *sizes, channels)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        rows, columns = ceil_divide(height, self._strides), ceil_divide(width, self._strides)
        return (batch, rows, columns, self.output_dim)

    def macs(self, input_shape: Shape) -> int:
        return macs(self.projection, self._padded_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
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
        patch_size: odd int, size of the kernel; `patch_size // 2` zeros pad each side.
        strides: int, smaller than `patch_size`.
        norm_epsilon: float, epsilon of the layer normalization.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / strides),
    ceil(width / strides), output_dim).

    Raises:
        ValueError: if `patch_size` is even or not larger than `strides`.

    Reference:
        Wang et al., PVT v2, arXiv 2106.13797, section 3.2.
    """

    def __init__(
        self, output_dim: int, patch_size: int, strides: int, norm_epsilon: float = 1e-5, **kwargs
    ) -> None:
        super().__init__(output_dim, patch_size, norm_epsilon, **kwargs)
        if patch_size % 2 == 0 or patch_size <= strides:
            raise ValueError(
                "`patch_size` must be odd and larger than `strides`. "
                f"Received: patch_size={patch_size}, strides={strides}"
            )
        self.strides = strides

    @property
    def _strides(self) -> int:
        return self.strides

    @property
    def _padding(self) -> int:
        return self.patch_size // 2

    def _pad(self, maps: Tensor) -> Tensor:
        return maps

    def _padded_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strides": self.strides}
