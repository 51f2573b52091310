"""Padding and bilinear resizing, formulated per framework."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_spm.types import Tensor


def pad(array: Tensor, widths: Sequence[tuple[int | Tensor, int | Tensor]]) -> Tensor:
    """Pads an array with zeros.

    Args:
        array: of any shape.
        widths: (before, after) for each axis, ints or scalar tensors.
    """
    if keras.config.backend() == "torch":
        # Keras names every padding operation, which breaks the graph of PyTorch's compiler.
        import torch

        last_axis_first = [width for axis in reversed(widths) for width in axis]
        return torch.nn.functional.pad(array, last_axis_first)
    return ops.pad(array, widths)


def resize_bilinear(maps: Tensor, size: Sequence[int | Tensor]) -> Tensor:
    """Resizes maps with half-pixel centers and without antialiasing; keeps their dtype.

    Args:
        maps: (batch, rows, columns, channels).
        size: (height, width), ints or scalar tensors.
    """
    if keras.config.backend() == "tensorflow":
        # Keras's function checks in Python that the size is positive.
        import tensorflow as tf

        return tf.cast(tf.image.resize(maps, size), maps.dtype)
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")


def resize_on_host(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resizes the maps of one image, (rows, columns, channels), as `resize_bilinear`.

    Every image may have another size, and JAX compiles `resize_bilinear` for each.
    """
    if keras.config.backend() != "jax":
        return ops.convert_to_numpy(resize_bilinear(maps[None], size))[0]
    for axis, length in enumerate(size):
        old = maps.shape[axis]
        positions = ((np.arange(length) + 0.5) * old / length - 0.5).clip(0, old - 1)
        lower = positions.astype(int)
        weight = (positions - lower).astype(maps.dtype)
        weight = weight[:, None, None] if axis == 0 else weight[:, None]
        upper = np.minimum(lower + 1, old - 1)
        maps = maps.take(lower, axis) * (1 - weight) + maps.take(upper, axis) * weight
    return maps
