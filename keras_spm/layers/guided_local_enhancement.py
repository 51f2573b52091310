"""Guided Local Enhancement, the second step of Stepwise Patch Merging."""

import math
from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_bool, check_integer, check_odd
from keras_spm.layers.batch_normalization import BatchNormalization, refuse_training
from keras_spm.layers.composite import CompositeLayer, build_once, check_num_heads
from keras_spm.layers.convolution import DepthwiseConv2D
from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.int8_kernel import Int8Kernel, float_policy
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.layers.resizing import ceil_divide, is_multiple, pad_to_multiple
from keras_spm.types import Shape, Tensor

WINDOW = 2
_TOKENS = 1 + WINDOW**2  # The guide token and the tokens of its window.
_MASKED_SCORE = -1e9


@keras.saving.register_keras_serializable("keras_spm")
class GuidedLocalEnhancement(Int8Kernel, CompositeLayer):
    """Merges each 2x2 window into one token by attention from a guide token.

    The guide map is batch normalization, exact GELU and a strided depthwise convolution.
    The guide token of a window attends to itself and to the window's four tokens, all
    layer-normalized. Its output is layer-normalized again. Positions outside a map of odd
    size are masked in the softmax.

    Only the guide token is a query; keys and values are never materialized. The score of a
    head is `(W_k^T q) . x` (the key's bias is the same for all five tokens and cancels in
    the softmax), and its output is `W_v (sum of a x) + b_v`, since the attention weights
    sum to one. The projections of a window cost 3 C^2 MACs instead of 15 C^2.

    `quantize("int8")` stores the projections in int8.

    Args:
        num_heads: int, divides the channels.
        guide_kernel_size: odd int, kernel size of the guide's convolution.
        fused: bool, set by `keras_spm.fuse`: the batch normalization is a scale and offset.

    Input: (batch, height, width, channels). Output: (batch, ceil(height / 2),
    ceil(width / 2), channels).

    Raises:
        ValueError: if `num_heads` does not divide the channels, or a fused layer is trained.

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
    """

    config_arguments = ("num_heads", "guide_kernel_size", "fused")
    kernel_attribute = "qkv_kernel"

    def __init__(
        self, num_heads: int = 8, guide_kernel_size: int = 7, fused: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = check_integer("num_heads", num_heads)
        self.guide_kernel_size = check_odd("guide_kernel_size", guide_kernel_size)
        self.fused = check_bool("fused", fused)
        dtype = float_policy(self.dtype_policy)
        if not fused:
            self.guide_norm = BatchNormalization(dtype=dtype, name="guide_norm")
        self.guide_depthwise = DepthwiseConv2D(
            guide_kernel_size, WINDOW, dtype=dtype, name="guide_depthwise"
        )
        self.token_norm, self.output_norm = (
            LayerNormalization(epsilon=1e-5, dtype=dtype, name=name)
            for name in ("token_norm", "output_norm")
        )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = input_shape[-1]
        check_num_heads(self.num_heads, channels)
        for layer in (self.guide_depthwise, self.token_norm, self.output_norm):
            build_once(layer, input_shape)
        if self.fused:
            self.guide_scale, self.guide_offset = (
                self.add_weight(name=name, shape=(channels,), initializer=initializer)
                for name, initializer in (("guide_scale", "ones"), ("guide_offset", "zeros"))
            )
        else:
            build_once(self.guide_norm, input_shape)
        self.qkv_kernel = self.add_weight(
            name="qkv_kernel", shape=(channels, 3 * channels), initializer=dense_initializer()
        )
        self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * channels,), initializer="zeros")
        self.build_int8()

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        refuse_training(self, training)
        return self.output_norm(self.attend(inputs, training))

    def attend(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Returns the attention output of each guide token, before the last normalization.

        Args:
            inputs, training: as of the layer.
        """
        guides, maps, bias = self._normalized(inputs, training)
        query, key_kernel, value_kernel = self._projections(guides)
        outputs = backend.guided_attention(
            guides, maps, query, key_kernel, value_kernel, bias, training
        )
        _, _, value_bias = ops.split(ops.convert_to_tensor(self.qkv_bias), 3)
        return outputs + value_bias

    def attention_weights(self, inputs: Tensor) -> Tensor:
        """Returns the attention of each guide token, the mean over heads, as in inference.

        Args:
            inputs: as of the layer.

        Returns:
            (batch, ceil(height / 2), ceil(width / 2), 5) float32: the weights of the guide and
            of its window's positions, row by row. They sum to 1; positions outside of the map
            have 0.
        """
        guides, maps, bias = self._normalized(inputs, training=False)
        query, key_kernel, _ = self._projections(guides)
        weights = backend.guided_attention_weights(guides, maps, query, key_kernel, bias)
        return ops.mean(weights, axis=-2)

    def _normalized(self, inputs, training):
        """Returns guides and padded maps, layer-normalized, and the bias of the padding or None."""
        if self.fused:
            scale, offset = map(ops.convert_to_tensor, (self.guide_scale, self.guide_offset))
            guides = backend.scaled(inputs, scale, offset)
        else:
            guides = self.guide_norm(inputs, training=training)
        guides = backend.chunked_by_image(
            self._guides, guides, sizes=inputs.shape[1:], training=training, on_jax=False
        )
        bias = None if is_multiple(inputs, WINDOW) else _padding_bias(inputs, guides)
        return guides, pad_to_multiple(self.token_norm(inputs), WINDOW), bias

    def _guides(self, maps):
        return self.token_norm(self.guide_depthwise(backend.gelu(maps)))

    def fold(self, original: "GuidedLocalEnhancement") -> None:
        """Sets the variables of this fused layer from the unfused `original`."""
        for name in ("guide_depthwise", "token_norm", "output_norm"):
            getattr(self, name).set_weights(getattr(original, name).get_weights())
        own = [self.qkv_bias, *self.kernel_variables()]
        for variable, value in zip(
            own, [original.qkv_bias, *original.kernel_variables()], strict=True
        ):
            variable.assign(ops.convert_to_numpy(value))
        scale, offset = original.guide_norm.affine()
        self.guide_scale.assign(scale)
        self.guide_offset.assign(offset)

    def _projections(self, guides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, (…, heads * head_dim), and kernels of keys and values, (heads, …)."""
        heads, head_dim = self.num_heads, ops.shape(guides)[-1] // self.num_heads
        # Keras casts variables itself, but in `call` alone.
        kernel, bias = (
            ops.cast(each, guides.dtype) for each in (self.float_kernel(), self.qkv_bias)
        )
        query_kernel, key_kernel, value_kernel = ops.split(kernel, 3, axis=1)
        query_bias, _, _ = ops.split(bias, 3)
        query = backend.dense(guides, query_kernel, query_bias) / math.sqrt(head_dim)
        key_kernel = ops.transpose(ops.reshape(key_kernel, (-1, heads, head_dim)), (1, 2, 0))
        value_kernel = ops.transpose(ops.reshape(value_kernel, (-1, heads, head_dim)), (1, 0, 2))
        return query, key_kernel, value_kernel

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return (batch, ceil_divide(height, WINDOW), ceil_divide(width, WINDOW), channels)

    def macs(self, input_shape: Shape) -> int:
        _, rows, columns, channels = self.compute_output_shape(input_shape)
        attention = 3 * channels**2 + 2 * _TOKENS * self.num_heads * channels
        return macs(self.guide_depthwise, input_shape) + rows * columns * attention


def _padding_bias(maps: Tensor, guides: Tensor) -> Tensor:
    """Returns (rows, columns, 5), a large negative score for tokens outside the map."""
    _, rows, columns, _ = ops.shape(guides)
    _, height, width, _ = ops.shape(maps)
    # The guide gets the offset of the window's first token, which is always inside the map.
    row_offsets, column_offsets = zip((0, 0), (0, 0), (0, 1), (1, 0), (1, 1), strict=True)
    token_rows, token_columns = (
        ops.expand_dims(ops.arange(count, dtype="int32") * WINDOW, 1)
        + ops.convert_to_tensor(offsets)
        for count, offsets in ((rows, row_offsets), (columns, column_offsets))
    )
    inside = ops.logical_and(
        ops.expand_dims(token_rows < height, 1), ops.expand_dims(token_columns < width, 0)
    )
    return ops.where(inside, 0.0, _MASKED_SCORE)
