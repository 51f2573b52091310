"""Scaled dot-product attention, formulated per framework.

Keras asks PyTorch in Python which kernel it would use, where its compiler cannot follow, and
copies what is not contiguous. JAX asks for a float16 product that XLA does not have on CPU.
"""

import keras
from keras import ops


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
    if backend == "jax" and keras.backend.standardize_dtype(query.dtype) == "float16":
        return _jax_float16(query, key, value, bias)
    return ops.dot_product_attention(query, key, value, bias)


def _torch(query, key, value, bias):
    import torch

    arrays = [array.transpose(1, 2) for array in (query, key, value)]
    mask = None if bias is None else bias.to(query.dtype)
    outputs = torch.nn.functional.scaled_dot_product_attention(*arrays, attn_mask=mask)
    return outputs.transpose(1, 2)


def _jax_float16(query, key, value, bias):
    import jax

    def in_float32(*arrays):
        arrays = (array.astype("float32") for array in arrays)
        return ops.dot_product_attention(*arrays).astype("float16")

    arrays = [array for array in (query, key, value, bias) if array is not None]
    return jax.lax.platform_dependent(*arrays, cpu=in_float32, default=ops.dot_product_attention)
