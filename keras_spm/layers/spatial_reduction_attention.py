"""Self-attention of every position to a spatially reduced map."""

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.adaptive_average_pooling import adaptive_average_pooling
from keras_spm.layers.attention_heads import check_heads
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.dense import Dense
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs

POOL_SIZE = 7  # The grid of keys and values in the linear form.


@keras.saving.register_keras_serializable("keras_spm")
class SpatialReductionAttention(keras.layers.Layer):
    """Multi-head attention whose keys and values come from a smaller map.

    The map is reduced by a convolution of kernel and stride `sr_ratio` (rows and
    columns that do not fill a patch are left out) and layer normalization; in the
    linear form by average pooling to 7x7, a 1x1 convolution, layer normalization and
    GELU, so that the cost grows linearly with the area. The softmax is computed in
    float32 under every dtype policy.

    Args:
        num_heads: int, divides the channels.
        sr_ratio: int, spatial reduction of keys and values; 1 for none.
        linear_attention: bool, the pooled form; `sr_ratio` is then not used.
        norm_epsilon: float, epsilon of the reduction's layer normalization.

    Input and output: (batch, height, width, channels).

    Raises:
        ValueError: where the heads do not divide the channels, or a map is smaller
            than `sr_ratio`.

    References:
        Wang et al., PVT, arXiv 2102.12122, section 3.3; PVT v2, arXiv 2106.13797,
        section 3.1.
    """

    def __init__(self, num_heads, sr_ratio=1, linear_attention=False, norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.linear_attention = linear_attention
        self.norm_epsilon = norm_epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        check_heads(self.num_heads, channels)
        self._check_size(input_shape)

        def linear(units, name):
            return Dense(units, dtype=self.dtype_policy, name=name)

        self.query = linear(channels, "query")
        self.key_value = linear(2 * channels, "key_value")
        self.projection = linear(channels, "projection")
        for layer in (self.query, self.key_value, self.projection):
            layer.build(input_shape)
        if self.reduces:
            ratio = 1 if self.linear_attention else self.sr_ratio
            self.reduction = Conv2D(
                channels, ratio, ratio, dtype=self.dtype_policy, name="reduction"
            )
            self.reduction_norm = LayerNormalization(
                epsilon=self.norm_epsilon, dtype=self.dtype_policy, name="reduction_norm"
            )
            self.reduction.build(input_shape)
            self.reduction_norm.build(input_shape)

    @property
    def reduces(self):
        """Whether keys and values come from another map than queries do."""
        return self.linear_attention or self.sr_ratio > 1

    def call(self, inputs):
        self._check_size(inputs.shape)
        batch, height, width, channels = ops.shape(inputs)
        heads = (self.num_heads, channels // self.num_heads)
        query = ops.reshape(self.query(inputs), (batch, -1, *heads))
        key, value = ops.split(self.key_value(self._reduce(inputs)), 2, axis=-1)
        key = ops.reshape(key, (batch, -1, *heads))
        value = ops.reshape(value, (batch, -1, *heads))
        outputs = backend.dot_product_attention(query, key, value)
        return self.projection(ops.reshape(outputs, (batch, height, width, channels)))

    def _reduce(self, inputs):
        if not self.reduces:
            return inputs
        if self.linear_attention:
            pooled = adaptive_average_pooling(inputs, POOL_SIZE)
            return backend.gelu(self.reduction_norm(self.reduction(pooled)))
        return self.reduction_norm(self.reduction(inputs))

    def _check_size(self, shape):
        sizes = [size for size in shape[1:3] if isinstance(size, int)]
        if not self.linear_attention and any(size < self.sr_ratio for size in sizes):
            raise ValueError(
                f"A map of {shape[1]} x {shape[2]} is smaller than sr_ratio={self.sr_ratio}: "
                "no key would be left. Use a larger image or a smaller `sr_ratio`."
            )

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
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

    def get_config(self):
        config = {
            "num_heads": self.num_heads,
            "sr_ratio": self.sr_ratio,
            "linear_attention": self.linear_attention,
            "norm_epsilon": self.norm_epsilon,
        }
        return {**super().get_config(), **config}
