"""Replicas of a model, each of which trains on a part of every batch.

On JAX the program of a step sees the whole batch, and XLA distributes it. On TensorFlow and
PyTorch it sees the part of one replica: sums over the batch are sums over the replicas.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_spm.types import Tensor


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas that train together, as `keras_spm.data_parallel` returns them.

    Attributes:
        count: int, number of devices, each with one replica.
        available: int, number of devices that could be used.
        process, processes: index and number of the processes.
        synchronized_batch_normalization: bool, see `keras_spm.data_parallel`.
        engine: JAX's mesh, TensorFlow's strategy, or None.
    """

    count: int
    available: int
    process: int = 0
    processes: int = 1
    synchronized_batch_normalization: bool = True
    engine: Any = None

    def describe(self, batch_size: int) -> str:
        """Returns a line such as "4 of 4 devices, 256 images a step, 64 each".

        Raises:
            ValueError: if the devices do not divide the batch.
        """
        self.check_batch_size(batch_size)
        devices = "device" if self.available == 1 else "devices"
        text = f"{self.count} of {self.available} {devices}, {batch_size} images a step"
        text += f", {batch_size // self.count} each" if self.count > 1 else ""
        return text + (f", {self.processes} processes" if self.processes > 1 else "")

    def check_batch_size(self, batch_size: int) -> None:
        """Raises a `ValueError` if the devices do not divide a batch."""
        if batch_size % self.count:
            raise ValueError(
                f"`batch_size` must be a multiple of the {self.count} devices. "
                f"Received: batch_size={batch_size}"
            )


_active: list[Replicas] = []
_independent: list[bool] = []
_local_batches: list[bool] = []
# Rows of a batch that this replica has. Each of TensorFlow's replicas has a thread.
_rows: contextvars.ContextVar[Tensor | int | None] = contextvars.ContextVar("rows", default=None)


def current() -> Replicas | None:
    """Returns the replicas of the innermost `data_parallel`, or None outside of it."""
    return _active[-1] if _active else None


def count() -> int:
    """Returns the number of devices of `data_parallel`, 1 outside of it."""
    return current().count if _active else 1


@contextlib.contextmanager
def _within(stack: list[Any], value: Any = True) -> Iterator[Any]:
    stack.append(value)
    try:
        yield value
    finally:
        stack.pop()


def activated(replicas: Replicas) -> contextlib.AbstractContextManager[Replicas]:
    """Context manager in which `current` returns these replicas."""
    return _within(_active, replicas)


def independent() -> contextlib.AbstractContextManager[bool]:
    """Context manager in which processes compute on different batches: nothing is summed."""
    return _within(_independent)


def local_batches() -> contextlib.AbstractContextManager[bool]:
    """Context manager in which the data of `fit` are the part of this process already."""
    return _within(_local_batches)


def has_local_batches() -> bool:
    """Whether the data of `fit` are the part of this process already."""
    return bool(_local_batches)


def is_writer() -> bool:
    """Whether this process writes files and prints: the first one, or the only one."""
    replicas = current()
    return replicas is None or replicas.process == 0


def has_torch_processes() -> bool:
    """Whether this is one of several PyTorch processes that compute on parts of a batch."""
    replicas = current()
    several = replicas is not None and replicas.processes > 1 and not _independent
    return several and keras.config.backend() == "torch"


def has_parts() -> bool:
    """Whether the current code sees the part of a batch of one replica alone."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return context is not None and context.num_replicas_in_sync > 1
    return has_torch_processes()


# === Rows of this replica ===


@contextlib.contextmanager
def rows_of_step(rows: Tensor | int) -> Iterator[None]:
    """Context manager of a step in which this replica has some rows of the batch, or none.

    A replica without rows computes one that must not count; see `parts.filled`.
    """
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def is_in_step() -> bool:
    """Whether this is a step on the part of a batch, see `rows_of_step`."""
    # First what PyTorch's compiler can trace.
    return has_parts() and _rows.get() is not None


def _counted(*tensors):
    """Returns sums over this replica's rows, zeros if it has none."""
    rows = _rows.get()
    if rows is None:
        return tensors
    factor = ops.cast(ops.minimum(rows, 1), "float32")
    return [tensor * factor for tensor in tensors]


def weigh_by_rows(loss: Tensor) -> Tensor:
    """Returns a replica's mean loss times its share of the rows, relative to equal shares.

    The mean over the replicas is then that over the batch, also for unequal parts.
    """
    rows = ops.cast(_rows.get(), "float32")
    total, count = sum_over_replicas(ops.convert_to_tensor(rows), ops.ones(()))
    return loss * ops.cast(rows * count / total, loss.dtype)


# === Sums over the batch ===


def sum_over_rows(*tensors: Tensor) -> list[Tensor]:
    """Returns float32 sums over the rows of the whole batch, from those of each replica's rows.

    As `sum_over_replicas`, but a replica that has no rows adds nothing.
    """
    return sum_over_replicas(*_counted(*tensors))


def sum_over_replicas(*tensors: Tensor) -> list[Tensor]:
    """Returns the sums of float32 tensors over all replicas, which have a gradient.

    The tensors are sent as one. Where a step sees the whole batch they are returned as they are.
    """
    if not has_parts():
        return list(tensors)
    flat = _all_reduce(ops.concatenate([ops.reshape(tensor, (-1,)) for tensor in tensors]))
    sums, start = [], 0
    for tensor in tensors:
        end = start + math.prod(tensor.shape)
        sums.append(ops.reshape(flat[start:end], tensor.shape))
        start = end
    return sums


def count_per_replica(count: Tensor, examples: Tensor | int) -> Tensor:
    """Returns the divisor of this replica's sum of losses, such as its number of objects.

    A loss of the whole batch is its sum over the number of objects in the batch, at least 1. The
    mean of the replicas' losses, weighted by their examples, is that loss if each is divided by
    this: the number in the whole batch times the replica's share of the examples.

    Args:
        count: float32 scalar, of this replica.
        examples: number of examples of this replica.
    """
    if not has_parts():
        return ops.maximum(count, 1)
    examples = ops.cast(examples, "float32")
    total, all_examples = sum_over_rows(ops.cast(count, "float32"), examples)
    return ops.maximum(total, 1) * ops.maximum(examples, 1) / all_examples


def mean_over_replicas(tensor: Tensor) -> Tensor:
    """Returns the mean of a tensor over the replicas that have rows, without a gradient."""
    if not has_parts():
        return tensor
    total, count = sum_over_rows(ops.stop_gradient(tensor), ops.ones(()))
    return total / count


def groups_of_batch() -> int:
    """Returns the number of parts of a whole batch whose statistics are separate, on JAX."""
    replicas = current()
    if replicas is None or replicas.synchronized_batch_normalization:
        return 1
    return replicas.count if keras.config.backend() == "jax" else 1


def synchronizes_statistics() -> bool:
    """Whether batch normalization sums its statistics over replicas."""
    replicas = current()
    return has_parts() and (replicas is None or replicas.synchronized_batch_normalization)


def _all_reduce(tensor):
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_replica_context().all_reduce("SUM", tensor)
    return _torch_sum().apply(tensor)


@functools.cache
def _torch_sum():
    import torch

    class Sum(torch.autograd.Function):
        # Every replica's loss depends on the sum, so the gradient is the sum of theirs.
        @staticmethod
        def forward(context: Any, tensor: Any) -> Any:
            total = tensor.contiguous().clone()
            torch.distributed.all_reduce(total)
            return total

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            return Sum.forward(context, gradient)

    return Sum
