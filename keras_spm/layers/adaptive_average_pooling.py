"""Adaptive average pooling for maps of any size, known or not."""

from keras import ops


def adaptive_average_pooling(maps, size):
    """Averages a map over a size x size grid of cells, as PyTorch divides it.

    Cell i covers rows floor(i * height / size) to ceil((i + 1) * height / size), so
    cells overlap where the height is not a multiple. Written as two small averaging
    matrices: Keras's own layer refuses sizes that are unknown under TensorFlow, and
    returns NaN for some maps under JAX.

    Args:
        maps: (batch, height, width, channels).
        size: int.

    Returns:
        (batch, size, size, channels)
    """
    _, height, width, _ = ops.shape(maps)
    maps = ops.einsum("ih,bhwc->biwc", _averages(height, size, maps.dtype), maps)
    return ops.einsum("jw,biwc->bijc", _averages(width, size, maps.dtype), maps)


def _averages(length, size, dtype):
    """The (size, length) matrix whose row i averages over cell i."""
    cells = ops.expand_dims(ops.arange(size), 1)
    starts = cells * length // size
    stops = ((cells + 1) * length - 1) // size + 1
    positions = ops.expand_dims(ops.arange(length), 0)
    inside = ops.logical_and(positions >= starts, positions < stops)
    return ops.cast(inside, dtype) / ops.cast(stops - starts, dtype)
