"""Checks of the first batch of the data of `fit`, `evaluate` and `predict`."""

import contextlib
import copy
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_IMAGES = 8  # Of an array of images, these are checked.


class FirstBatch:
    """Passes the first batch of data to a function that raises a `ValueError` if it is wrong.

    Data sets are not read twice: a `tf.data.Dataset`, a generator or a PyTorch `DataLoader`
    is checked while it is read, so that no shuffle buffer is filled for it. Of other data
    with random access, the first batch is read once more. Of arrays, all targets are checked.

    Args:
        check: function (images, targets) of arrays; the targets of data without targets are
            `None`.
    """

    def __init__(self, check: Callable[[Any, Any], None]) -> None:
        self._check = check
        self._error = None

    def __enter__(self) -> "FirstBatch":
        return self

    def __exit__(self, exception_type: Any, exception: Any, traceback: Any) -> None:
        # tf.data replaces exceptions by its own.
        if self._error is not None and exception is not self._error:
            raise self._error from None

    def of(self, x: Any, y: Any = None) -> Any:
        """Returns the data `x`, whose first batch is checked now or when it is read.

        Args:
            x, y: as in `keras.Model.fit`.
        """
        if hasattr(x, "element_spec") and hasattr(x, "enumerate"):  # A tf.data.Dataset.
            return self._map(x)
        if isinstance(x, types.GeneratorType):
            check = self._checking_once()
            return (check(batch) for batch in x)
        if hasattr(x, "shape") or y is not None:
            self.check(x[:_IMAGES], y)
        elif hasattr(x, "collate_fn"):  # A torch DataLoader.
            return self._checked_loader(x)
        elif hasattr(x, "__getitem__") and hasattr(x, "__len__") and len(x):
            self._check_batch(x[0])
        elif hasattr(x, "map") and hasattr(x, "__iter__"):  # A Grain IterDataset.
            return x.map(self._checking_once())
        return x

    def check(self, images: Any, targets: Any) -> None:
        """Checks arrays or tensors."""
        try:
            self._check(to_numpy(images), keras.tree.map_structure(to_numpy, targets))
        except ValueError as error:
            self._error = error
            raise

    def _check_batch(self, batch):
        images, targets, _ = keras.utils.unpack_x_y_sample_weight(
            tuple(batch) if isinstance(batch, list) else batch
        )
        self.check(images, targets)

    def _checking_once(self):
        waiting = [True]

        def check(batch):
            if waiting:
                waiting.clear()
                self._check_batch(batch)
            return batch

        return check

    def _checked_loader(self, loader):
        """Returns a copy, of a class that Keras recognizes."""
        check = self._checking_once()

        class CheckedLoader(type(loader)):
            def __iter__(self):
                return map(check, super().__iter__())

        checked = copy.copy(loader)
        checked.__class__ = CheckedLoader
        return checked

    def _map(self, dataset):
        import tensorflow as tf

        spec = dataset.element_spec

        def check(*tensors):
            with contextlib.suppress(ValueError):  # `self._error` keeps it.
                self._check_batch(tf.nest.pack_sequence_as(spec, tensors))
            return self._error is None

        def checked(index, batch):
            tensors = tf.nest.flatten(batch)
            if not all(isinstance(tensor, tf.Tensor) for tensor in tensors):
                return batch  # Sparse or ragged.
            is_right = tf.cond(
                index == 0, lambda: tf.numpy_function(check, tensors, tf.bool), lambda: True
            )
            with tf.control_dependencies([tf.debugging.Assert(is_right, ["invalid data"])]):
                return tf.nest.map_structure(tf.identity, batch)

        return dataset.enumerate().map(checked)


def to_numpy(tensor: Any) -> np.ndarray | None:
    """Returns an array, a tensor of any framework, or a list as a NumPy array."""
    if tensor is None or isinstance(tensor, np.ndarray):
        return tensor
    if hasattr(tensor, "detach"):  # A PyTorch tensor, perhaps on a GPU.
        tensor = tensor.detach().cpu()
    return np.asarray(tensor)
