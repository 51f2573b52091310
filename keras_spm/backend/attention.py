"""Scaled dot-product attention, formulated per framework.

PyTorch: Keras's function asks in Python for the kernel that PyTorch would use, which its
compiler cannot trace, and copies arrays that are not contiguous.

JAX: XLA on CPU writes all scores to memory several times, and keeps them for the gradient.
Computed block by block they stay in the caches, and are recomputed for the gradient. The
first attention of PVT v2 b1 at 896x896 pixels takes 345 ms instead of 505, forward and
backward (two CPU cores, float32); at 224x224 there is no difference.

TensorFlow: the einsum in Keras's function is slower than transposition and plain matrix
products (16.4 and 10.8 ms, forward and backward).
"""

import functools
import math

import keras
from keras import ops

from keras_spm.backend.exporting import is_exporting
from keras_spm.types import Tensor

_SCORES_PER_BLOCK = 2**19  # Scores of one head in float32: 2 MB.


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Computes attention with a softmax in float32, by the backend's fused kernel if any.

    Args:
        query: (batch, queries, heads, channels). The result has the same shape.
        key, value: (batch, keys, heads, channels).
        bias: optional (1, heads, queries, keys), added to the scaled scores.
    """
    backend = keras.config.backend()
    if backend == "torch" and not is_exporting():
        return _torch(query, key, value, bias)
    if backend == "jax" and not is_exporting():
        return _jax_attention()(query, key, value, bias)
    return _plain(query, key, value, bias)


def _plain(query, key, value, bias):
    query = ops.swapaxes(query / math.sqrt(query.shape[-1]), 1, 2)
    key, value = ops.transpose(key, (0, 2, 3, 1)), ops.swapaxes(value, 1, 2)
    scores = ops.matmul(query, key)
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    if bias is not None:
        scores = scores + ops.cast(bias, scores.dtype)
    weights = ops.cast(_softmax(scores), value.dtype)
    return ops.swapaxes(ops.matmul(weights, value), 1, 2)


def _softmax(scores):
    """Keras's softmax would warn about a single key, which small maps have."""
    if keras.config.backend() == "torch":
        return scores.softmax(-1)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.softmax(scores)
    import jax

    return jax.nn.softmax(scores)


def _torch(query, key, value, bias):
    import torch

    arrays = [array.transpose(1, 2) for array in (query, key, value)]
    mask = None if bias is None else bias.to(query.dtype)
    outputs = torch.nn.functional.scaled_dot_product_attention(*arrays, attn_mask=mask)
    return outputs.transpose(1, 2)


@functools.cache
def _jax_attention():
    """A JAX function that chooses its form when a program is lowered."""
    import jax

    @jax.jit
    def attention(query, key, value, bias):
        # Only windows have a bias, and their scores are small.
        on_cpu = _jax_by_blocks if bias is None else _jax_in_float32
        arrays = [array for array in (query, key, value, bias) if array is not None]
        return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=ops.dot_product_attention)

    return attention


def _jax_in_float32(*arrays):
    """Computes in float32: XLA on CPU lacks a half-precision product that Keras needs."""
    dtype = arrays[0].dtype
    return ops.dot_product_attention(*(array.astype("float32") for array in arrays)).astype(dtype)


def _jax_by_blocks(query, key, value):
    """Computes head by head, and a block of queries of each head at a time."""
    import jax

    batch, queries, heads, channels = query.shape
    keys = key.shape[1]

    def attend_head(arrays):
        query, key, value = (array.astype("float32") for array in arrays)

        @jax.checkpoint
        def attend(query):
            weights = jax.nn.softmax(key @ query / math.sqrt(channels))
            return weights @ value

        outputs = jax.lax.map(attend, query, batch_size=max(1, _SCORES_PER_BLOCK // keys))
        return outputs.astype(arrays[0].dtype)

    arrays = (
        array.swapaxes(1, 2).reshape(-1, array.shape[1], channels) for array in (query, key, value)
    )
    outputs = jax.lax.map(attend_head, tuple(arrays))
    return outputs.reshape(batch, heads, queries, channels).swapaxes(1, 2)
