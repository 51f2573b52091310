"""Scaled dot-product attention, with what JAX cannot do on CPU mended."""

import keras
from keras import ops


def dot_product_attention(query, key, value):
    """Attends with a softmax in float32, by the backend's fused kernel where it has one.

    Args:
        query: (batch, queries, heads, channels).
        key: (batch, keys, heads, channels).
        value: (batch, keys, heads, channels).

    Returns:
        (batch, queries, heads, channels)
    """
    if (
        keras.config.backend() == "jax"
        and keras.backend.standardize_dtype(query.dtype) == "float16"
    ):
        return _jax_float16(query, key, value)
    return ops.dot_product_attention(query, key, value)


def _jax_float16(query, key, value):
    # JAX asks for a float16 product that XLA does not have on CPU; compiled code fails.
    import jax

    def in_float32(*arrays):
        arrays = (array.astype("float32") for array in arrays)
        return ops.dot_product_attention(*arrays).astype("float16")

    return jax.lax.platform_dependent(
        query, key, value, cpu=in_float32, default=ops.dot_product_attention
    )
