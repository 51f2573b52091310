"""Patch embeddings: the stems, and the patch mergings of PVT and PVT v2."""

import math
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import check_epsilon, check_integer, check_odd
from keras_spm.layers.composite import CompositeLayer
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.resizing import ceil_divide, pad_to_multiple
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class PatchEmbedding(CompositeLayer):
    """A linear projection of non-overlapping patches, then layer normalization.

    Maps are padded with zeros at the bottom and right to whole patches.

    Args:
        output_dim: int, channels of the output.
        patch_size: int, height and width of a patch.
        norm_epsilon: float above 0.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / patch_size),
    ceil(width / patch_size), output_dim).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.2.
    """

    config_arguments = ("output_dim", "patch_size", "norm_epsilon")

    def __init__(
        self, output_dim: int, patch_size: int, norm_epsilon: float = 1e-5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.output_dim = check_integer("output_dim", output_dim)
        self.patch_size = check_integer("patch_size", patch_size)
        self.norm_epsilon = check_epsilon("norm_epsilon", norm_epsilon)
        self.strides = self.patch_size
        self._padding = 0

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        sizes, dtype = (self.patch_size, self.strides, self._padding), self.dtype_policy
        self.projection = Conv2D(self.output_dim, *sizes, dtype=dtype, name="projection")
        self.norm = LayerNormalization(epsilon=self.norm_epsilon, dtype=dtype, name="norm")
        # Maps smaller than a patch are padded.
        self.projection.build((None, None, None, input_shape[-1]))
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Tensor) -> Tensor:
        maps = inputs if self._padding else pad_to_multiple(inputs, self.patch_size)
        return self.norm(self.projection(maps))

    @property
    def output_norm(self) -> LayerNormalization:
        """The normalization of the outputs."""
        return self.norm

    def as_convolution(self) -> tuple[np.ndarray, int]:
        """Returns (kernel, padding) of the convolution before the norm, without its bias."""
        return keras.ops.convert_to_numpy(self.projection.kernel), self._padding

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        rows, columns = ceil_divide(height, self.strides), ceil_divide(width, self.strides)
        return (batch, rows, columns, self.output_dim)

    def macs(self, input_shape: Shape) -> int:
        _, rows, columns, _ = self.compute_output_shape(input_shape)
        return rows * columns * math.prod(self.projection.kernel.shape)


@keras.saving.register_keras_serializable("keras_spm")
class OverlappingPatchEmbedding(PatchEmbedding):
    """A strided convolution over overlapping patches, then layer normalization.

    Args:
        output_dim: int, channels of the output.
        patch_size: odd int, size of the kernel; `patch_size // 2` zeros pad each side.
        strides: int, smaller than `patch_size`.
        norm_epsilon: float.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / strides),
    ceil(width / strides), output_dim).

    Raises:
        ValueError: if `patch_size` is even or not larger than `strides`.

    Reference:
        Wang et al., PVT v2, arXiv 2106.13797, section 3.2.
    """

    config_arguments = ("output_dim", "patch_size", "norm_epsilon", "strides")

    def __init__(
        self,
        output_dim: int,
        patch_size: int,
        strides: int,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        patch_size = check_odd("patch_size", patch_size)
        super().__init__(output_dim, patch_size, norm_epsilon, **kwargs)
        self.strides = check_integer("strides", strides)
        self._padding = patch_size // 2
        if self.strides >= patch_size:
            raise ValueError(
                "`strides` must be smaller than `patch_size`. "
                f"Received: strides={strides}, patch_size={patch_size}"
            )
