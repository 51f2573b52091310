"""Attention of a guide token to the tokens of its window, formulated per framework.

The widest maps have all channels of a token for each head: the queries, mapped to the channels
of the tokens, and the weighted sums of tokens. On a CPU they do not fit the caches, and the
operating system clears new memory before it is used. The first merging of PVT v2 b1 takes for
eight images (one core, float32, forward):

| | all images at once | image by image | head by head |
| --- | ---: | ---: | ---: |
| PyTorch | 44 ms | 20 ms | |
| TensorFlow | 40 ms | 27 ms, compiled by XLA 21 ms | |
| JAX | 85 ms | 41 ms | 38 ms |

In training, TensorFlow is faster with all images at once (113 ms, forward and backward) than
image by image (131 ms), PyTorch is not (119 and 89 ms). JAX takes 57 ms image by image and 101
head by head, but in the third merging, whose maps are small, 28 ms at once and 19 head by head.
"""

import operator

import keras
from keras import ops

from keras_spm.backend.chunked import chunked_by_head, chunked_by_image, is_chunked
from keras_spm.backend.elementwise import xla_compiled
from keras_spm.backend.exporting import is_exporting
from keras_spm.types import Tensor


def guided_attention(
    guides: Tensor,
    maps: Tensor,
    query: Tensor,
    key_kernel: Tensor,
    value_kernel: Tensor,
    bias: Tensor | None = None,
    training: bool = False,
) -> Tensor:
    """Returns the attention output of each guide, (batch, rows, columns, channels).

    Args:
        guides: (batch, rows, columns, channels), the first token of each window.
        maps: (batch, 2 * rows, 2 * columns, channels), the other four tokens.
        query: (batch, rows, columns, heads * head_dim), scaled.
        key_kernel: (heads, head_dim, channels).
        value_kernel: (heads, channels, head_dim).
        bias: optional (rows, columns, 5), added to the scores.
        training: bool, whether a gradient will be computed.
    """
    images, shared = (guides, maps, query), (key_kernel, value_kernel, bias)
    sizes = (*guides.shape[1:], key_kernel.shape[0])
    if not is_chunked(sizes):
        return _attend(*images, *shared, by_head=True)
    if keras.config.backend() != "tensorflow":
        return chunked_by_image(lambda *images: _attend(*images, *shared), *images, sizes=sizes)
    return _attend(*images, *shared) if training else _tensorflow(*images, *shared)


def guided_attention_weights(
    guides: Tensor, maps: Tensor, query: Tensor, key_kernel: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Returns the attention weights of each guide, (batch, rows, columns, heads, 5) float32.

    Args:
        guides, maps, query, key_kernel, bias: as of `guided_attention`.
    """
    tokens, bias = _tokens(guides, maps), _of_windows(bias, guides)
    weights = _weights(_by_head(query, key_kernel), key_kernel, tokens, bias)
    return ops.reshape(weights, (*ops.shape(guides)[:-1], *weights.shape[1:]))


def _attend(guides, maps, query, key_kernel, value_kernel, bias=None, by_head=False):
    tokens, bias = _tokens(guides, maps), _of_windows(bias, guides)

    def attend_heads(query, key_kernel, value_kernel):
        weights = ops.cast(_weights(query, key_kernel, tokens, bias), tokens.dtype)
        mixed = ops.swapaxes(ops.matmul(weights, tokens), 0, 1)  # (heads, windows, channels)
        return ops.matmul(mixed, value_kernel)  # (heads, windows, head_dim)

    compute = chunked_by_head if by_head else operator.call
    outputs = compute(attend_heads, _by_head(query, key_kernel), key_kernel, value_kernel)
    return ops.reshape(ops.swapaxes(outputs, 0, 1), ops.shape(guides))


def _tokens(guides, maps):
    """Returns (windows, 5, channels) of all images: the guide, then its window, row by row."""
    batch, rows, columns, channels = ops.shape(guides)
    maps = ops.reshape(maps, (batch, rows, 2, columns, 2, channels))
    # One transposition, as the gradient of four slices would be four whole maps.
    windows = ops.reshape(ops.transpose(maps, (0, 1, 3, 2, 4, 5)), (-1, 2 * 2, channels))
    return ops.concatenate([ops.reshape(guides, (-1, 1, channels)), windows], axis=1)


def _of_windows(bias, guides):
    """Returns the bias of the windows of all images, (windows, 1, 5), or None."""
    if bias is None:
        return None
    bias = ops.broadcast_to(bias, (ops.shape(guides)[0], *ops.shape(bias)))
    return ops.reshape(bias, (-1, 1, ops.shape(bias)[-1]))


def _by_head(query, key_kernel):
    """Returns (heads, windows, head_dim)."""
    heads, head_dim, _ = ops.shape(key_kernel)
    return ops.swapaxes(ops.reshape(query, (-1, heads, head_dim)), 0, 1)


def _weights(query, key_kernel, tokens, bias):
    """Returns (windows, heads, 5) float32."""
    query = ops.swapaxes(ops.matmul(query, key_kernel), 0, 1)  # (windows, heads, channels)
    scores = ops.cast(ops.matmul(query, ops.swapaxes(tokens, 1, 2)), "float32")
    if bias is not None:
        scores = scores + bias
    if keras.config.backend() == "torch" and not is_exporting():
        # 0.4 ms instead of 5.1 for 50,000 rows of five numbers (one core).
        return ops.moveaxis(ops.softmax(ops.moveaxis(scores, -1, 0), axis=0), 0, -1)
    return ops.softmax(scores)


def _tensorflow(*arrays):
    """Computes the gradient with all images at once. XLA cannot differentiate the loop."""
    import tensorflow as tf

    arrays = [array for array in arrays if array is not None]

    @tf.custom_gradient
    def attend(*arrays):
        def gradients(upstream):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                outputs = _attend(*arrays)
            return tape.gradient(outputs, arrays, upstream)

        return xla_compiled(_tensorflow_by_image)(*arrays), gradients

    return tf.ensure_shape(attend(*arrays), arrays[0].shape)


def _tensorflow_by_image(guides, maps, query, *shared):
    import tensorflow as tf

    def attend(images):
        return _attend(*(image[None] for image in images), *shared)[0]

    return tf.map_fn(attend, (guides, maps, query), fn_output_signature=guides.dtype)
