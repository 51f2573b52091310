"""Padding and bilinear resizing, formulated per framework."""

from collections.abc import Sequence

import keras
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
