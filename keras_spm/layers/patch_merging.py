"""Patch merging of Swin."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.arguments import check_epsilon, check_integer
from keras_spm.layers.composite import CompositeLayer, build_once
from keras_spm.layers.dense import Dense
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.layers.resizing import ceil_divide, pad_to_multiple
from keras_spm.types import Shape, Tensor

WINDOW = 2
# (row, column) in a window. The reference, and so its weights, goes down the columns first.
_WINDOW_OFFSETS = ((0, 0), (1, 0), (0, 1), (1, 1))


@keras.saving.register_keras_serializable("keras_spm")
class PatchMerging(CompositeLayer):
    """Concatenates each 2x2 window, normalizes it, and projects it without bias.

    Maps of odd size are padded with zeros at the bottom and right.

    Args:
        output_dim: int, channels of the output.
        norm_epsilon: float, epsilon of the layer normalization.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / 2),
    ceil(width / 2), output_dim).

    Reference:
        Liu et al., Swin Transformer, arXiv 2103.14030, section 3.1.
    """

    config_arguments = ("output_dim", "norm_epsilon")

    def __init__(self, output_dim: int, norm_epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output_dim = check_integer("output_dim", output_dim)
        self.norm_epsilon = check_epsilon("norm_epsilon", norm_epsilon)
        dtype = self.dtype_policy
        self.norm = LayerNormalization(epsilon=norm_epsilon, dtype=dtype, name="norm")
        self.reduction = Dense(output_dim, use_bias=False, dtype=dtype, name="reduction")

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for layer in (self.norm, self.reduction):
            build_once(layer, self._merged_shape(input_shape))

    def call(self, inputs: Tensor) -> Tensor:
        maps = pad_to_multiple(inputs, WINDOW)
        merged = [maps[:, row::WINDOW, column::WINDOW] for row, column in _WINDOW_OFFSETS]
        return self.reduction(self.norm(ops.concatenate(merged, axis=-1)))

    def as_convolution(self) -> tuple[np.ndarray, int]:
        """Returns (kernel, padding) of the linear map of windows, but for their normalization."""
        kernel, scale = map(ops.convert_to_numpy, (self.reduction.kernel, self.norm.gamma))
        channels = len(scale) // len(_WINDOW_OFFSETS)
        windows = np.empty((WINDOW, WINDOW, channels, self.output_dim), kernel.dtype)
        parts = np.split(kernel * scale[:, None], len(_WINDOW_OFFSETS))
        for (row, column), part in zip(_WINDOW_OFFSETS, parts, strict=True):
            windows[row, column] = part
        return windows, 0

    def _merged_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        rows, columns = ceil_divide(height, WINDOW), ceil_divide(width, WINDOW)
        return (batch, rows, columns, len(_WINDOW_OFFSETS) * channels)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*self._merged_shape(input_shape)[:-1], self.output_dim)

    def macs(self, input_shape: Shape) -> int:
        return macs(self.reduction, self._merged_shape(input_shape))
