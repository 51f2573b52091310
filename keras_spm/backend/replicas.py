"""Replicas of a model, each of which trains on a part of every batch.

On JAX the program of a step sees the whole batch, and XLA distributes it. On TensorFlow and
PyTorch it sees the part of one replica: sums over the batch are sums over the replicas.
"""

import contextlib
import dataclasses
import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
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


# Between the seeds of two processes.
_SEED_DISTANCE = 1_000_003

_active: list[Replicas] = []
_independent: list[bool] = []
_local_batches: list[bool] = []


def current() -> Replicas | None:
    """Returns the replicas of the innermost `data_parallel`, or None outside of it."""
    return _active[-1] if _active else None


@contextlib.contextmanager
def activated(replicas: Replicas) -> Iterator[Replicas]:
    """Context manager in which `current` returns these replicas."""
    _active.append(replicas)
    try:
        yield replicas
    finally:
        _active.pop()


@contextlib.contextmanager
def independent() -> Iterator[None]:
    """Context manager in which processes compute on different batches: nothing is summed."""
    _independent.append(True)
    try:
        yield
    finally:
        _independent.pop()


@contextlib.contextmanager
def local_batches() -> Iterator[None]:
    """Context manager in which the data of `fit` are the part of this process already."""
    _local_batches.append(True)
    try:
        yield
    finally:
        _local_batches.pop()


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


# === Sums over the batch ===


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
    total, all_examples = sum_over_replicas(ops.cast(count, "float32"), examples)
    return ops.maximum(total, 1) * ops.maximum(examples, 1) / all_examples


def mean_over_replicas(tensor: Tensor) -> Tensor:
    """Returns the mean of a tensor over replicas, without a gradient."""
    if not has_parts():
        return tensor
    total, count = sum_over_replicas(ops.stop_gradient(tensor), ops.ones(()))
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
    return _torch_all_reduce(tensor)


def _torch_all_reduce(tensor):
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

    return Sum.apply(tensor)


# === Processes ===


def gathered(value: Any) -> list[Any]:
    """Returns a value of every process, in their order; all of them must call this.

    Args:
        value: object that can be pickled.
    """
    replicas = current()
    if replicas is None or replicas.processes == 1:
        return [value]
    if keras.config.backend() == "torch":
        import torch

        values = [None] * replicas.processes
        torch.distributed.all_gather_object(values, value)
        return values
    from jax.experimental.multihost_utils import process_allgather

    data = np.frombuffer(pickle.dumps(value), "uint8")
    sizes = process_allgather(np.int32(len(data)))
    padded = process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(padded, sizes, strict=True)]


def of_first_process(value: Any) -> Any:
    """Returns the value of the first process; all of them must call this."""
    return gathered(value if is_writer() else None)[0]


@contextlib.contextmanager
def failing_together(error_type: type[Exception]) -> Iterator[None]:
    """Context manager that raises the error of one process on all of them.

    Args:
        error_type: type of the error on processes without an error of their own.
    """
    own = None
    try:
        yield
    except Exception as error:
        own = error
    messages = gathered(None if own is None else str(own) or repr(own))
    if own is not None:
        raise own
    for message in filter(None, messages):
        raise error_type(message)


# === Parts of batches ===


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


def joined(outputs: Any) -> Any:
    """Returns tensors of all PyTorch processes, one after the other along the first axis."""
    import torch

    def join(tensor):
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(current().processes)]
        torch.distributed.all_gather(parts, tensor)
        return torch.cat(parts)

    return keras.tree.map_structure(join, outputs)


# === PyTorch: one model in every process ===


def average_gradients(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Returns the means of gradients over all processes, sent as one tensor."""
    import torch

    present = [gradient for gradient in gradients if gradient is not None]
    groups: dict[Any, list] = {}
    for gradient in present:
        groups.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for group in groups.values():
        flat = torch._utils._flatten_dense_tensors(group)
        torch.distributed.all_reduce(flat)
        flat /= current().processes
        parts = torch._utils._unflatten_dense_tensors(flat, group)
        torch._foreach_copy_(group, list(parts))
    return list(gradients)


def broadcast(variables: Sequence[keras.Variable]) -> None:
    """Assigns the values of the first PyTorch process to the variables of all."""
    import torch

    with torch.no_grad():
        for variable in variables:
            torch.distributed.broadcast(variable.value.data, 0)


def summed(variables: Sequence[keras.Variable]) -> list[Tensor]:
    """Returns the sums of variables over all PyTorch processes."""
    import torch

    with torch.no_grad():
        values = [variable.value.detach().clone() for variable in variables]
        for value in values:
            torch.distributed.all_reduce(value)
    return values


def separate_random_numbers(model: keras.Model) -> None:
    """Gives every PyTorch process random numbers of its own, from a state that all have."""
    import torch

    if not has_torch_processes():
        return
    process = current().process
    for variable in model.variables:
        if variable.path.endswith("seed_generator_state"):
            distance = [process * _SEED_DISTANCE, 0]
            variable.assign(variable + ops.convert_to_tensor(distance, variable.dtype))
    torch.manual_seed(int(torch.randint(2**31, ())) + process)


def _map(function, batch):
    return keras.tree.map_structure(lambda array: None if array is None else function(array), batch)
