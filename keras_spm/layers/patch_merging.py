"""Patch merging, the merging of Swin."""

import keras
from keras import ops

from keras_spm.layers.dense import Dense
from keras_spm.layers.depthwise_convolution import ceil_divide
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.padding import pad_to_multiple

WINDOW = 2
# Columns before rows: the order of the reference, which its weights are in.
_CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))


@keras.saving.register_keras_serializable("keras_spm")
class PatchMerging(keras.layers.Layer):
    """Concatenates each 2x2 window, normalizes it, and maps it linearly, without bias.

    Zeros at the bottom and right fill the last windows of a map of odd size.

    Args:
        output_dim: int, channels of the output.
        norm_epsilon: float, epsilon of the layer normalization.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / 2),
    ceil(width / 2), output_dim).

    Reference:
        Liu et al., Swin Transformer, arXiv 2103.14030, section 3.1.
    """

    def __init__(self, output_dim, norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.norm_epsilon = norm_epsilon
        self.norm = LayerNormalization(epsilon=norm_epsilon, dtype=self.dtype_policy, name="norm")
        self.reduction = Dense(
            output_dim, use_bias=False, dtype=self.dtype_policy, name="reduction"
        )

    def build(self, input_shape):
        merged_shape = self._merged_shape(input_shape)
        self.norm.build(merged_shape)
        self.reduction.build(merged_shape)

    def call(self, inputs):
        maps = pad_to_multiple(inputs, WINDOW)
        corners = [maps[:, row::WINDOW, column::WINDOW] for row, column in _CORNERS]
        return self.reduction(self.norm(ops.concatenate(corners, axis=-1)))

    def _merged_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return (
            batch,
            ceil_divide(height, WINDOW),
            ceil_divide(width, WINDOW),
            len(_CORNERS) * channels,
        )

    def compute_output_shape(self, input_shape):
        return (*self._merged_shape(input_shape)[:-1], self.output_dim)

    def macs(self, input_shape):
        _, rows, columns, channels = self._merged_shape(input_shape)
        return rows * columns * channels * self.output_dim

    def get_config(self):
        config = {"output_dim": self.output_dim, "norm_epsilon": self.norm_epsilon}
        return {**super().get_config(), **config}
