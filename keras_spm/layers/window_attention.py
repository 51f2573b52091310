"""Self-attention within windows, which may be shifted."""

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.attention_heads import check_heads
from keras_spm.layers.dense import Dense
from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.macs import macs
from keras_spm.layers.padding import pad_to_multiple

# What the reference adds to the scores of positions that must not see each other. The
# softmax makes it nothing in float32; in float16 -1e9 would be infinite.
FAR = -100.0


@keras.saving.register_keras_serializable("keras_spm")
class WindowAttention(keras.layers.Layer):
    """Multi-head self-attention within windows, with a bias by relative position.

    The map is padded with zeros at the bottom and right to whole windows; padded
    positions take part, as in the reference. With `shifted`, the map is rolled by half
    a window before it is divided, so that windows lie across the borders of the
    unshifted ones; positions that the roll has brought together from opposite edges do
    not see each other. Where one window covers the shorter side of the map, nothing is
    shifted. The softmax is computed in float32 under every dtype policy.

    Args:
        num_heads: int, divides the channels.
        window_size: int, height and width of a window.
        shifted: bool.

    Input and output: (batch, height, width, channels).

    Raises:
        ValueError: where the heads do not divide the channels.

    Reference:
        Liu et al., Swin Transformer, arXiv 2103.14030, section 3.2.
    """

    def __init__(self, num_heads, window_size=7, shifted=False, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted

    def build(self, input_shape):
        channels = input_shape[-1]
        check_heads(self.num_heads, channels)

        def linear(units, name):
            return Dense(units, dtype=self.dtype_policy, name=name)

        self.qkv = linear(3 * channels, "qkv")
        self.projection = linear(channels, "projection")
        for layer in (self.qkv, self.projection):
            layer.build(input_shape)
        self.relative_position_bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=((2 * self.window_size - 1) ** 2, self.num_heads),
            initializer=dense_initializer(),
        )

    def call(self, inputs):
        _, height, width, _ = ops.shape(inputs)
        maps = pad_to_multiple(inputs, self.window_size)
        shift = self._shift(height, width)
        if self.shifted:
            maps = ops.roll(maps, (-shift, -shift), axis=(1, 2))
        maps = self._attend(maps, shift)
        if self.shifted:
            maps = ops.roll(maps, (shift, shift), axis=(1, 2))
        return maps[:, :height, :width]

    def _shift(self, height, width):
        """By how much a map of that size is rolled: an int, or a tensor for unknown sizes."""
        half = self.window_size // 2 if self.shifted else 0
        if isinstance(height, int) and isinstance(width, int):
            return half if min(height, width) > self.window_size else 0
        return ops.where(ops.minimum(height, width) > self.window_size, half, 0)

    def _attend(self, maps, shift):
        """Attends within windows of a map that consists of whole windows."""
        _, height, width, channels = ops.shape(maps)
        size, heads = self.window_size, self.num_heads
        rows, columns = height // size, width // size
        # Windows stand beside the heads, not in the batch: so the bias, which differs
        # from window to window, need not be repeated for every image.
        qkv = ops.reshape(
            self.qkv(maps), (-1, rows, size, columns, size, 3, heads, channels // heads)
        )
        qkv = ops.transpose(qkv, (5, 0, 2, 4, 1, 3, 6, 7))
        qkv = ops.reshape(qkv, (3, -1, size * size, rows * columns * heads, channels // heads))
        bias = self._bias(height, width, shift)
        outputs = backend.dot_product_attention(qkv[0], qkv[1], qkv[2], bias)
        outputs = ops.reshape(outputs, (-1, size, size, rows, columns, channels))
        outputs = ops.transpose(outputs, (0, 3, 1, 4, 2, 5))
        return self.projection(ops.reshape(outputs, (-1, height, width, channels)))

    def _bias(self, height, width, shift):
        """(1, windows * heads, positions, positions): what is added to the scores."""
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

    def relative_position_index(self):
        """(positions, positions): the table's row for each pair of a window's positions."""
        size = self.window_size
        # Not by numpy, at which PyTorch's compiler breaks its graph.
        positions = ops.arange(size * size)
        row_offsets, column_offsets = (
            ops.expand_dims(axis, 1) - axis + size - 1
            for axis in (positions // size, positions % size)
        )
        return row_offsets * (2 * size - 1) + column_offsets

    def shift_mask(self, height, width, shift):
        """Keeps positions apart that only the roll has made neighbors.

        Args:
            height, width: of the rolled map, multiples of the window size.
            shift: by how much it was rolled; with 0 the mask is zero.

        Returns:
            (windows, positions, positions): `FAR` where they may not see each other,
            else 0.
        """
        size = self.window_size

        def regions(length):
            """Number of the region that each row or column belongs to."""
            index = ops.arange(length)
            return ops.cast(index >= length - size, "int32") + ops.cast(
                index >= length - shift, "int32"
            )

        number = ops.expand_dims(3 * regions(height), 1) + regions(width)
        number = ops.reshape(number, (height // size, size, width // size, size))
        number = ops.reshape(ops.transpose(number, (0, 2, 1, 3)), (-1, size * size))
        apart = ops.not_equal(ops.expand_dims(number, 1), ops.expand_dims(number, 2))
        return ops.where(apart, FAR, 0.0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        _, height, width, channels = input_shape
        height += -height % self.window_size
        width += -width % self.window_size
        padded_shape = (None, height, width, channels)
        return (
            macs(self.qkv, padded_shape)
            + macs(self.projection, padded_shape)
            + 2 * height * width * self.window_size**2 * channels
        )

    def get_config(self):
        config = {
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shifted": self.shifted,
        }
        return {**super().get_config(), **config}
