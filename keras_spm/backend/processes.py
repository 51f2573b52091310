"""Processes that train together: what they tell each other, and one model in all of them."""

import contextlib
import json
import pickle
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.backend.replicas import count, current, has_torch_processes, is_writer
from keras_spm.types import Tensor

# Between the seeds of two processes.
_SEED_DISTANCE = 1_000_003
_XLA_STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")


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


def check_same(name: str, values: dict[str, Any]) -> None:
    """Raises a `ValueError` on all processes if they have different values.

    Args:
        name: of the values, for the message.
        values: {key: value that JSON can hold}.
    """
    texts = {key: json.dumps(value, sort_keys=True) for key, value in values.items()}
    every = gathered(texts)
    for process, other in enumerate(every):
        for key in sorted(other.keys() | every[0].keys()):
            found, expected = (reprlib.repr(each.get(key)) for each in (other, every[0]))
            if other.get(key) != every[0].get(key):
                error = ValueError(
                    f"All processes must have the same {name}. Received: {key}={expected} in "
                    f"process 0, {key}={found} in process {process}"
                )
                error.is_reported = not is_writer()
                raise error


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
        error = error_type(message)
        error.is_reported = True  # By the process that has it.
        raise error


def may_be_of_another(error: BaseException | None) -> bool:
    """Whether an error may have its cause in another process, such as a lost connection."""
    # JAX raises some errors of XLA as `ValueError`, with the name of a status.
    return isinstance(error, RuntimeError) or (
        isinstance(error, ValueError) and _XLA_STATUS.match(str(error)) is not None
    )


# === PyTorch ===


def joined(outputs: Any) -> Any:
    """Returns tensors of all PyTorch processes, one after the other along the first axis."""
    import torch

    def join(tensor):
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(current().processes)]
        torch.distributed.all_gather(parts, tensor)
        return torch.cat(parts)

    return keras.tree.map_structure(join, outputs)


def combine_gradients(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Returns the gradients of the whole batch from those of the replicas.

    They are means over PyTorch's processes, and sums over TensorFlow's replicas, whose losses
    Keras has divided by their number.
    """
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        found = [gradient for gradient in gradients if gradient is not None]
        sums = iter(tf.distribute.get_replica_context().all_reduce("SUM", found))
        return [None if gradient is None else next(sums) for gradient in gradients]
    return _average_gradients(gradients)


def _average_gradients(gradients):
    """Returns the means of gradients over all PyTorch processes, sent as one tensor."""
    import torch

    averaged = list(gradients)
    groups: dict[Any, list[int]] = {}
    for index, gradient in enumerate(gradients):
        if gradient is not None:
            groups.setdefault((gradient.dtype, gradient.device), []).append(index)
    for indices in groups.values():
        flat = torch.cat([gradients[index].reshape(-1) for index in indices])
        torch.distributed.all_reduce(flat)
        flat /= current().processes
        parts = flat.split([gradients[index].numel() for index in indices])
        for index, part in zip(indices, parts, strict=True):
            averaged[index] = part.view_as(gradients[index])
    return averaged


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
    """Gives every replica random numbers of its own, from the state of the first one.

    On JAX the random numbers are those of the whole batch.

    Args:
        model: whose seed generators have the same state in all processes.
    """
    if keras.config.backend() == "jax" or count() == 1:
        return
    for variable in model.variables:
        if not variable.path.endswith("seed_generator_state"):
            continue
        if keras.config.backend() == "torch":
            distance = [current().process * _SEED_DISTANCE, 0]
            variable.assign(variable + ops.convert_to_tensor(distance, variable.dtype))
            continue
        # Each device has a copy, which it updates itself.
        copies = current().engine.experimental_local_results(variable.value)
        first = copies[0].numpy()
        for replica, copy in enumerate(copies):
            copy.assign(first + np.array([replica * _SEED_DISTANCE, 0], first.dtype))
    separate_generators()


def separate_generators() -> None:
    """Seeds PyTorch's own generator in every process, from its state in the first one."""
    if not has_torch_processes():
        return
    import torch

    torch.manual_seed(of_first_process(int(torch.randint(2**31, ()))) + current().process)
