"""Scaled dot-product attention, formulated per framework.

Keras asks PyTorch in Python which kernel it would use, where its compiler cannot follow, and
copies what is not contiguous.

XLA on CPU writes all scores out, several times, and keeps them for the gradient. Block by
block they stay in the caches and are made again: the first attention of PVT v2 b1 at 896x896
pixels takes 170 / 345 ms instead of 226 / 505 forward / forward and backward, the second
83 / 157 instead of 135 / 380, at 224x224 about the same (two shared CPU cores, float32).

TensorFlow's einsum, which Keras takes, is slower than transposed maps and plain products: for
eight 56x56 maps of 64 channels and their 49 keys 6.0 / 16.4 ms instead of 5.2 / 10.8.
"""

import functools
import math

import keras
from keras import ops

# Scores of one head that are computed at once: 2 MB of them.
_SCORES_AT_ONCE = 2**19


def dot_product_attention(query, key, value, bias=None):
    """Attends with a softmax in float32, by the backend's fused kernel where it has one.

    Args:
        query: (batch, queries, heads, channels).
        key: (batch, keys, heads, channels).
        value: (batch, keys, heads, channels).
        bias: optional (1, heads, queries, keys), added to the scaled scores.

    Returns:
        (batch, queries, heads, channels)
    """
    backend = keras.config.backend()
    if backend == "torch":
        return _torch(query, key, value, bias)
    if backend == "jax":
        return _jax_attention()(query, key, value, bias)
    return _tensorflow(query, key, value, bias)


def _tensorflow(query, key, value, bias):
    import tensorflow as tf

    query = ops.swapaxes(query / math.sqrt(query.shape[-1]), 1, 2)
    key, value = ops.transpose(key, (0, 2, 3, 1)), ops.swapaxes(value, 1, 2)
    scores = ops.matmul(query, key)
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    # Not Keras's softmax, which warns where a small map leaves one key.
    weights = ops.cast(tf.nn.softmax(scores), value.dtype)
    return ops.swapaxes(ops.matmul(weights, value), 1, 2)


def _torch(query, key, value, bias):
    import torch

    arrays = [array.transpose(1, 2) for array in (query, key, value)]
    mask = None if bias is None else bias.to(query.dtype)
    outputs = torch.nn.functional.scaled_dot_product_attention(*arrays, attn_mask=mask)
    return outputs.transpose(1, 2)


@functools.cache
def _jax_attention():
    """Makes the JAX function, whose form is chosen when a program is lowered.

    Made once, at the first call, as JAX may not be installed.
    """
    import jax

    @jax.jit
    def attention(query, key, value, bias):
        # A bias comes with windows, whose scores are small.
        on_cpu = _jax_by_blocks if bias is None else _jax_in_float32
        arrays = [array for array in (query, key, value, bias) if array is not None]
        return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=ops.dot_product_attention)

    return attention


def _jax_in_float32(*arrays):
    """In half precision Keras asks for a product that XLA does not have on CPU."""
    dtype = arrays[0].dtype
    return ops.dot_product_attention(*(array.astype("float32") for array in arrays)).astype(dtype)


def _jax_by_blocks(query, key, value):
    """Head by head, and of each head a block of queries at a time."""
    import jax

    batch, queries, heads, channels = query.shape
    keys = key.shape[1]

    def of_head(arrays):
        query, key, value = (array.astype("float32") for array in arrays)

        @jax.checkpoint
        def of_query(query):
            weights = jax.nn.softmax(key @ query / math.sqrt(channels))
            return weights @ value

        outputs = jax.lax.map(of_query, query, batch_size=max(1, _SCORES_AT_ONCE // keys))
        return outputs.astype(arrays[0].dtype)

    arrays = (
        array.swapaxes(1, 2).reshape(-1, array.shape[1], channels) for array in (query, key, value)
    )
    outputs = jax.lax.map(of_head, tuple(arrays))
    return outputs.reshape(batch, heads, queries, channels).swapaxes(1, 2)
