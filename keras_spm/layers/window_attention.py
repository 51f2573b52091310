"""Self-attention within windows, which may be shifted."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_bool, check_integer
from keras_spm.layers.composite import CompositeLayer, check_num_heads
from keras_spm.layers.dense import Dense
from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.macs import macs
from keras_spm.layers.resizing import ceil_divide, pad_to_multiple
from keras_spm.types import Shape, Tensor

# The reference's mask value: negligible after a float32 softmax, and finite in float16.
MASKED_SCORE = -100.0


@keras.saving.register_keras_serializable("keras_spm")
class WindowAttention(CompositeLayer):
    """Multi-head self-attention within windows, with a relative position bias.

    The map is padded with zeros at the bottom and right to whole windows. As in the
    reference, padded positions take part in the attention. The softmax is in float32.

    Args:
        num_heads: int, divides the channels.
        window_size: int, height and width of a window.
        shifted: bool, whether the map is rolled by half a window, so that windows cross the
            borders of unshifted ones. Positions that only the roll made neighbors are
            masked. Nothing is shifted if a window covers the shorter side of the map.
        always_shift: bool, whether even such maps are shifted, as in the dense models of the
            reference.

    Input and output: (batch, height, width, channels).

    Raises:
        ValueError: if `num_heads` does not divide the channels.

    Reference:
        Liu et al., Swin Transformer, arXiv 2103.14030, section 3.2.
    """

    config_arguments = ("num_heads", "window_size", "shifted", "always_shift")

    def __init__(
        self,
        num_heads: int,
        window_size: int = 7,
        shifted: bool = False,
        always_shift: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_integer("num_heads", num_heads)
        self.window_size = check_integer("window_size", window_size)
        self.shifted = check_bool("shifted", shifted)
        self.always_shift = check_bool("always_shift", always_shift)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = input_shape[-1]
        check_num_heads(self.num_heads, channels)
        self.qkv = Dense(3 * channels, dtype=self.dtype_policy, name="qkv")
        self.projection = Dense(channels, dtype=self.dtype_policy, name="projection")
        for layer in (self.qkv, self.projection):
            layer.build(input_shape)
        self.relative_position_bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=((2 * self.window_size - 1) ** 2, self.num_heads),
            initializer=dense_initializer(),
        )

    def call(self, inputs: Tensor) -> Tensor:
        _, height, width, _ = ops.shape(inputs)
        maps = pad_to_multiple(inputs, self.window_size)
        shift = self._shift(height, width)
        if self.shifted:
            maps = backend.roll(maps, (-shift, -shift))
        maps = self._attend(maps, shift)
        if self.shifted:
            maps = backend.roll(maps, (shift, shift))
        return maps[:, :height, :width]

    def _shift(self, height: int | Tensor, width: int | Tensor) -> int | Tensor:
        half = self.window_size // 2 if self.shifted else 0
        if self.always_shift:
            return half
        if isinstance(height, int) and isinstance(width, int):
            return half if min(height, width) > self.window_size else 0
        height, width = (backend.scalar(size, "int32") for size in (height, width))
        return ops.where(ops.minimum(height, width) > self.window_size, half, 0)

    def _attend(self, maps: Tensor, shift: int | Tensor) -> Tensor:
        batch, height, width, channels = ops.shape(maps)
        size = self.window_size
        rows, columns = height // size, width // size
        query, key, value = self._windows(self.qkv(maps))
        bias = self._bias(height, width, shift)
        outputs = backend.dot_product_attention(query, key, value, bias)
        outputs = ops.reshape(outputs, (batch, size, size, rows, columns, channels))
        outputs = ops.transpose(outputs, (0, 3, 1, 4, 2, 5))
        return self.projection(ops.reshape(outputs, (batch, height, width, channels)))

    def _windows(self, qkv: Tensor) -> Sequence[Tensor]:
        """Returns queries, keys and values, each (batch, positions, windows * heads, channels).

        Windows are part of the heads' axis, not of the batch: so the bias, which differs
        between windows, is not repeated for every image.
        """
        batch, height, width, channels = ops.shape(qkv)
        size, heads = self.window_size, self.num_heads
        rows, columns = height // size, width // size
        shape = (batch, size * size, rows * columns * heads, channels // (3 * heads))
        if backend.is_exporting():
            # LiteRT transposes at most six axes.
            axes = (batch, rows, size, columns, size, channels // 3)
            parts = [ops.reshape(part, axes) for part in ops.split(qkv, 3, axis=-1)]
            return [ops.reshape(ops.transpose(each, (0, 2, 4, 1, 3, 5)), shape) for each in parts]
        qkv = ops.reshape(qkv, (batch, rows, size, columns, size, 3, heads, shape[-1]))
        qkv = ops.transpose(qkv, (5, 0, 2, 4, 1, 3, 6, 7))
        qkv = ops.reshape(qkv, (3, *shape))
        return [qkv[part] for part in range(3)]

    def _bias(self, height: int | Tensor, width: int | Tensor, shift: int | Tensor) -> Tensor:
        """Returns the bias of the scores, (1, windows * heads, positions, positions)."""
        positions = self.window_size**2
        table = ops.convert_to_tensor(self.relative_position_bias_table)
        bias = ops.take(table, ops.reshape(self.relative_position_index(), (-1,)), axis=0)
        bias = ops.transpose(ops.reshape(bias, (positions, positions, self.num_heads)), (2, 0, 1))
        windows = (height // self.window_size) * (width // self.window_size)
        if self.shifted:
            mask = ops.expand_dims(self.shift_mask(height, width, shift), 1)
            bias = bias + ops.cast(mask, bias.dtype)
        else:
            bias = ops.tile(bias, (windows, 1, 1))
        return ops.reshape(bias, (1, windows * self.num_heads, positions, positions))

    def relative_position_index(self) -> Tensor:
        """Returns (positions, positions), the table row of each pair of positions in a window."""
        size = self.window_size
        # NumPy would break the graph of PyTorch's compiler.
        positions = ops.arange(size * size)
        row_offsets, column_offsets = (
            ops.expand_dims(axis, 1) - axis + size - 1
            for axis in (positions // size, positions % size)
        )
        return row_offsets * (2 * size - 1) + column_offsets

    def shift_mask(self, height: int | Tensor, width: int | Tensor, shift: int | Tensor) -> Tensor:
        """Returns the mask of a map that was rolled by `shift`, (windows, positions, positions).

        `MASKED_SCORE` for pairs of positions that only the roll made neighbors, else 0.
        Height and width are multiples of the window size.
        """
        size = self.window_size

        def regions(length):
            index = ops.arange(length, dtype="int32")
            starts = (length - size, length - shift)
            return sum(ops.cast(index >= start, "int32") for start in starts)

        region = ops.expand_dims(3 * regions(height), 1) + regions(width)
        region = ops.reshape(region, (height // size, size, width // size, size))
        region = ops.reshape(ops.transpose(region, (0, 2, 1, 3)), (-1, size * size))
        masked = ops.not_equal(ops.expand_dims(region, 1), ops.expand_dims(region, 2))
        return ops.where(masked, MASKED_SCORE, 0.0)

    def macs(self, input_shape: Shape) -> int:
        batch, *sizes, channels = input_shape
        height, width = (ceil_divide(size, self.window_size) * self.window_size for size in sizes)
        padded_shape = (batch, height, width, channels)
        attention = 2 * height * width * self.window_size**2 * channels
        return macs(self.qkv, padded_shape) + macs(self.projection, padded_shape) + attention
