"""Self-attention to a spatially reduced map."""

import math
from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_bool, check_epsilon, check_integer
from keras_spm.layers.composite import CompositeLayer, check_num_heads
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.dense import Dense
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor

POOL_SIZE = 7  # Height and width of the keys' map in the linear form.


@keras.saving.register_keras_serializable("keras_spm")
class SpatialReductionAttention(CompositeLayer):
    """Multi-head attention with keys and values from a smaller map.

    The map is reduced by a convolution of kernel and stride `sr_ratio` (which ignores
    incomplete patches) and layer normalization; in the linear form by average pooling to
    7x7, a 1x1 convolution, layer normalization and GELU. The softmax is in float32.

    Args:
        num_heads: int, divides the channels.
        sr_ratio: int, spatial reduction of keys and values; 1 for none.
        linear_attention: bool, the pooled form, which ignores `sr_ratio`.
        norm_epsilon: float, epsilon of the reduction's layer normalization.

    Input and output: (batch, height, width, channels).

    Raises:
        ValueError: if `num_heads` does not divide the channels, or the map is smaller than
            `sr_ratio`.

    References:
        Wang et al., PVT, arXiv 2102.12122, section 3.3; PVT v2, arXiv 2106.13797,
        section 3.1.
    """

    config_arguments = ("num_heads", "sr_ratio", "linear_attention", "norm_epsilon")

    def __init__(
        self,
        num_heads: int,
        sr_ratio: int = 1,
        linear_attention: bool = False,
        norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_integer("num_heads", num_heads)
        self.sr_ratio = check_integer("sr_ratio", sr_ratio)
        self.linear_attention = check_bool("linear_attention", linear_attention)
        self.norm_epsilon = check_epsilon("norm_epsilon", norm_epsilon)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = input_shape[-1]
        check_num_heads(self.num_heads, channels)
        self._check_size(input_shape)
        dtype = self.dtype_policy
        self.query = Dense(channels, dtype=dtype, name="query")
        self.key_value = Dense(2 * channels, dtype=dtype, name="key_value")
        self.projection = Dense(channels, dtype=dtype, name="projection")
        for layer in (self.query, self.key_value, self.projection):
            layer.build(input_shape)
        if self.reduces:
            ratio = 1 if self.linear_attention else self.sr_ratio
            self.reduction = Conv2D(channels, ratio, ratio, dtype=dtype, name="reduction")
            self.reduction_norm = LayerNormalization(
                epsilon=self.norm_epsilon, dtype=dtype, name="reduction_norm"
            )
            self.reduction.build(input_shape)
            self.reduction_norm.build(input_shape)

    @property
    def reduces(self) -> bool:
        """Whether keys and values come from a reduced map."""
        return self.linear_attention or self.sr_ratio > 1

    @property
    def smallest_map(self) -> int:
        """Smallest height and width of the input."""
        return 1 if self.linear_attention else self.sr_ratio

    def call(self, inputs: Tensor) -> Tensor:
        self._check_size(inputs.shape)
        batch, height, width, channels = ops.shape(inputs)
        heads = (self.num_heads, channels // self.num_heads)
        query = ops.reshape(self.query(inputs), (batch, height * width, *heads))
        reduced = self._reduce(inputs)
        keys = math.prod(ops.shape(reduced)[1:3])
        key, value = (
            ops.reshape(maps, (batch, keys, *heads))
            for maps in ops.split(self.key_value(reduced), 2, axis=-1)
        )
        outputs = backend.dot_product_attention(query, key, value)
        return self.projection(ops.reshape(outputs, (batch, height, width, channels)))

    def _reduce(self, inputs: Tensor) -> Tensor:
        if not self.reduces:
            return inputs
        if self.linear_attention:
            pooled = adaptive_average_pooling(inputs, POOL_SIZE)
            return backend.gelu(self.reduction_norm(self.reduction(pooled)))
        return self.reduction_norm(self.reduction(inputs))

    def _check_size(self, shape: Shape) -> None:
        sizes = [size for size in shape[1:3] if isinstance(size, int)]
        if any(size < self.smallest_map for size in sizes):
            raise ValueError(
                "Height and width of the map must be at least `sr_ratio`. Received: "
                f"{shape[1]} x {shape[2]}, sr_ratio={self.sr_ratio}. Use larger images or a "
                "smaller `sr_ratio`."
            )

    def macs(self, input_shape: Shape) -> int:
        self._check_size(input_shape)
        batch, height, width, channels = input_shape
        keys_shape = input_shape
        total = macs(self.query, input_shape) + macs(self.projection, input_shape)
        if self.linear_attention:
            keys_shape = (batch, POOL_SIZE, POOL_SIZE, channels)
            total += macs(self.reduction, keys_shape)
        elif self.reduces:
            keys_shape = self.reduction.compute_output_shape(input_shape)
            total += macs(self.reduction, input_shape)
        queries, keys = height * width, keys_shape[1] * keys_shape[2]
        return total + macs(self.key_value, keys_shape) + 2 * queries * keys * channels


def adaptive_average_pooling(maps: Tensor, size: int) -> Tensor:
    """Averages maps over a size x size grid of cells, as PyTorch does.

    Cell i covers rows floor(i * height / size) to ceil((i + 1) * height / size), so cells
    overlap unless the height is a multiple of `size`. This is written as two small
    averaging matrices, because Keras's layer needs static sizes under TensorFlow and
    returns NaN for some sizes under JAX.

    Input: (batch, height, width, channels). Output: (batch, size, size, channels).
    """
    _, height, width, _ = ops.shape(maps)
    maps = ops.einsum("ih,bhwc->biwc", _averaging_matrix(height, size, maps.dtype), maps)
    return ops.einsum("jw,biwc->bijc", _averaging_matrix(width, size, maps.dtype), maps)


def _averaging_matrix(length: int | Tensor, size: int, dtype: str) -> Tensor:
    """Returns the (size, length) matrix whose row i averages over cell i."""
    cells = ops.expand_dims(ops.arange(size), 1)
    starts = cells * length // size
    stops = ((cells + 1) * length - 1) // size + 1
    positions = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
    inside = ops.logical_and(positions >= starts, positions < stops)
    return ops.cast(inside, dtype) / ops.cast(stops - starts, dtype)
