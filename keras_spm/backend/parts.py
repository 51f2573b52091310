"""Parts of batches, one for each replica."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.backend.replicas import current
from keras_spm.types import Tensor


def part_of(batch: Any, index: int, count: int) -> Any:
    """Returns the rows of one of `count` parts of a batch.

    Raises:
        ValueError: if the batch has no equal parts.
    """

    def rows(array):
        size = array.shape[0]
        if size % count:
            raise ValueError(
                f"Every batch of `fit` must be a multiple of the {count} devices. Received: a "
                f"batch of {size} examples. Choose another `batch_size`, or leave {size % count} "
                "out."
            )
        return array[index * size // count : (index + 1) * size // count]

    return _map(rows, batch)


def own_part(batch: Any) -> Any:
    """Returns the rows of this process of a batch; see `part_of`."""
    active = current()
    return batch if active is None else part_of(batch, active.process, active.processes)


def padded_part_of(batch: Any, index: int, count: int) -> tuple[Any, int]:
    """Returns the rows of one of `count` parts of a batch of any size, and the size.

    The last parts are filled up with the first row of the batch.
    """
    size = next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None).shape[0]
    rows = np.arange(index * -(-size // count), (index + 1) * -(-size // count))
    rows = np.where(rows < size, rows, 0)
    return _map(lambda array: array[rows], batch), size


def without_padding(outputs: Any, size: int, count: int) -> Any:
    """Returns the outputs for all rows of a batch that `padded_part_of` filled up.

    Outputs may have several rows for each row of the batch.
    """
    padded = -(-size // count) * count
    return keras.tree.map_structure(lambda array: array[: array.shape[0] // padded * size], outputs)


def filled(batch: Any) -> tuple[Any, Tensor]:
    """Returns a batch of at least one row, and the number of rows that it had, on TensorFlow.

    A replica may have no rows of a small batch, and XLA refuses them.
    """
    import tensorflow as tf

    rows = tf.shape(next(leaf for leaf in tf.nest.flatten(batch) if leaf is not None))[0]

    def fill(tensor):
        padding = [[0, tf.maximum(1 - rows, 0)]] + [[0, 0]] * (len(tensor.shape) - 1)
        filled = tf.pad(tf.cast(tensor, "uint8") if tensor.dtype == tf.bool else tensor, padding)
        return tf.cast(filled, tensor.dtype)

    return _map(fill, batch), rows


def rows_of(outputs: Any, rows: Tensor) -> Any:
    """Returns the outputs for the rows that a batch had before it was `filled`."""
    # Outputs may have several rows for each row of the batch.
    return _map(lambda tensor: tensor[: ops.shape(tensor)[0] * ops.minimum(rows, 1)], outputs)


def _map(function, batch):
    return keras.tree.map_structure(lambda array: None if array is None else function(array), batch)
