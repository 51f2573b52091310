"""Parts of batches, one for each replica."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.backend.replicas import current, is_in_step
from keras_spm.types import Tensor


def part_of(batch: Any, index: int, count: int) -> Any:
    """Returns the rows of one of `count` parts of a batch.

    Their numbers differ by at most one. The first part has rows, the last ones may have none.
    """

    def rows(array):
        size = array.shape[0]
        if size is None:  # In the graph of a `tf.data.Dataset`.
            import tensorflow as tf

            size = tf.shape(array)[0]
        start, end = (-(-i * size // count) for i in (index, index + 1))  # Rounded up.
        return array[start:end]

    return _map(rows, batch)


def num_rows(batch: Any) -> Tensor | int:
    """Returns the number of rows of a batch, whose arrays may be None."""
    return ops.shape(next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None))[0]


def own_part(batch: Any) -> Any:
    """Returns the rows of this process of a batch; see `part_of`."""
    active = current()
    return batch if active is None else part_of(batch, active.process, active.processes)


def padded_part_of(batch: Any, index: int, count: int) -> tuple[Any, int]:
    """Returns the rows of one of `count` parts of a batch of any size, and the size.

    The last parts are filled up with the first row of the batch.
    """
    size = num_rows(batch)
    rows = np.arange(index * -(-size // count), (index + 1) * -(-size // count))
    rows = np.where(rows < size, rows, 0)
    return _map(lambda array: array[rows], batch), size


def without_padding(outputs: Any, size: int, count: int) -> Any:
    """Returns the outputs for all rows of a batch that `padded_part_of` filled up.

    Outputs may have several rows for each row of the batch.
    """
    padded = -(-size // count) * count
    return keras.tree.map_structure(lambda array: array[: array.shape[0] // padded * size], outputs)


def filled(batch: Any) -> tuple[Any, Tensor | int]:
    """Returns a batch of at least one row, and the number of rows that it had.

    A replica may have no rows of a small batch, which layers refuse. Its row has zeros, or -1 for
    integers, which are no objects.
    """
    rows = num_rows(batch)
    if keras.config.backend() == "tensorflow":
        return _map(lambda tensor: _fill_tensorflow(tensor, rows), batch), rows
    return batch if rows else _map(_fill, batch), rows


def _fill(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return ops.full((1, *tensor.shape[1:]), _filler(dtype), dtype)


def _fill_tensorflow(tensor, rows):
    import tensorflow as tf

    padding = [[0, tf.maximum(1 - rows, 0)]] + [[0, 0]] * (len(tensor.shape) - 1)
    numbers = tf.cast(tensor, "uint8") if tensor.dtype == tf.bool else tensor
    value = tf.constant(_filler(tensor.dtype.name), numbers.dtype)
    return tf.cast(tf.pad(numbers, padding, constant_values=value), tensor.dtype)


def _filler(dtype):
    return -1 if dtype.startswith("int") else 0


def rows_of(outputs: Any, rows: Tensor | int) -> Any:
    """Returns the outputs for the rows that a batch had before it was `filled`."""
    if isinstance(rows, int) and rows:
        return outputs
    # Outputs may have several rows for each row of the batch.
    return _map(lambda tensor: tensor[: ops.shape(tensor)[0] * ops.minimum(rows, 1)], outputs)


def filled_in_step(batch: Any) -> Any:
    """Returns a batch of at least one row, if this is a step on the part of a batch."""
    return filled(batch)[0] if is_in_step() else batch


def _map(function, batch):
    return keras.tree.map_structure(lambda array: None if array is None else function(array), batch)
