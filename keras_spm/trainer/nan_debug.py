"""Finds the cause when a training fails or its values are no longer finite."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.backend import processes, replicas
from keras_spm.trainer.checkpoints import (
    Checkpoint,
    Checkpoints,
    TrainingError,
    get_state,
    named_variables,
    non_finite_names,
    set_state,
)

# Batches that a backend may read ahead.
_READ_AHEAD = 3


class NonFiniteError(Exception):
    """A value is not finite.

    Attributes:
        step: int, the step (from 0) after which it was found.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class CheckFiniteLoss(keras.callbacks.Callback):
    """Raises `NonFiniteError` when the loss is not finite.

    It reads the logs that Keras fetches after each batch in any case, in Keras's own thread if
    there is one, so it does not wait for the device.

    Args:
        step_of: function (epoch, batch) that returns the step.
    """

    async_safe = True

    def __init__(self, step_of: Callable[[int, int], int]):
        super().__init__()
        self._step_of = step_of

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if not math.isfinite(logs["loss"]):
            step = self._step_of(self._epoch, batch)
            raise NonFiniteError(step, f"the loss is {logs['loss']}")


@contextlib.contextmanager
def explain_errors(
    model: keras.Model,
    batches: Sequence,
    checkpoints: Checkpoints,
    current_step: Callable[[], int],
    validation: Any = None,
) -> Iterator[None]:
    """Context manager of a `fit` that raises a `TrainingError` if the cause of an error is found.

    Args:
        model: model that is trained.
        batches: sequence of all batches.
        checkpoints: checkpoints of the run.
        current_step: function that returns the current step.
        validation: `validation_data` of `fit`.
    """
    try:
        yield
    except NonFiniteError as error:
        cause = _describe_cause(model, batches, checkpoints, error.step)
        raise TrainingError(
            f"After step {error.step + 1}, {error}: {cause}. {checkpoints.describe_last()}"
        ) from error
    except TrainingError:
        raise
    except Exception as raised:
        if _hides_interrupt(raised):
            raise KeyboardInterrupt from raised
        if _has_processes() and processes.may_be_of_another(raised):
            raise  # Most probably of another process, see `Watchdog`.
        # Each backend wraps the errors of readers in its own way, so the batches are read again.
        step = current_step()
        indexed = hasattr(validation, "__getitem__") and not isinstance(validation, tuple)
        for name, dataset, indices in (
            ("Training batch", batches, range(step, step + _READ_AHEAD)),
            ("Validation batch", validation, range(len(validation) if indexed else 0)),
        ):
            for index in indices:
                try:
                    dataset[index]
                except Exception as error:
                    reason = str(error).rstrip(".")
                    raise TrainingError(
                        f"{name} {index + 1} cannot be read: {reason}. "
                        f"{checkpoints.describe_last()}"
                    ) from error
        raise


def _hides_interrupt(error):
    """Returns whether an error was raised while an interrupt was handled.

    On JAX, an interrupt in a step leaves a model of Keras without values, so that the end of
    its `fit` fails, too. The tasks of this package keep them.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _has_processes():
    active = replicas.current()
    return active is not None and active.processes > 1


def _describe_cause(model, batches, checkpoints, step):
    if _has_processes():
        found = processes.gathered(_check_batch(batches[step]))
        found = [f"{each} in process {number}" for number, each in enumerate(found) if each]
        return found[0] if found else "train in one process to find the cause"
    checkpoint = checkpoints.last()
    if checkpoint is None:
        return "the weights are already non-finite at initialization"
    cause = find_cause(model, batches, checkpoint, step)
    if cause is None:
        return f"not reproducible by repeating the steps from {checkpoint.step + 1} on"
    return f"at step {cause[0] + 1} {cause[1]}"


def find_cause(
    model: keras.Model, batches: Sequence, checkpoint: Checkpoint, last: int
) -> tuple[int, str] | None:
    """Finds the first non-finite values by repeating the steps since a checkpoint.

    Args:
        model: model that was trained. It cannot be used afterwards.
        batches: sequence of all batches.
        checkpoint: an earlier checkpoint.
        last: int, the step after which a value was not finite.

    Returns:
        (step, description), or None if all values are finite.
    """
    if message := _check_batch(batches[last]):
        return last, message
    set_state(model, checkpoint.arrays, metrics=False)
    for step in range(checkpoint.step, last + 1):
        state, batch = get_state(model), batches[step]
        if message := _check_batch(batch):
            return step, message
        model.reset_metrics()
        logs = model.train_on_batch(*batch, return_dict=True)
        if not math.isfinite(logs["loss"]):
            return step, _describe_loss(model, state, batch, logs)
        if names := non_finite_names(get_state(model)):
            path = named_variables(model)[names[0]].path
            return step, _describe_update(model, state, batch, path)
    return None


def _check_batch(batch):
    """Returns a description of non-finite images, targets or weights of a batch, or None."""
    for name, part in zip(("images", "targets", "sample weights"), batch, strict=False):
        for path, array in keras.tree.flatten_with_path(part):
            array = np.asarray(array)
            if array.dtype.kind != "f" or np.isfinite(array).all():
                continue
            (indices,) = np.nonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            name = " ".join([name, *map(repr, path)])
            numbers = ", ".join(str(index + 1) for index in indices[:5])
            more = ", …" if len(indices) > 5 else ""
            return (
                f"the {name} of its batch are not finite (number {numbers}{more} of {len(array)})"
            )
    return None


def _describe_loss(model, state, batch, logs):
    set_state(model, state)
    outputs = keras.tree.flatten(model(batch[0], training=True))
    outputs = [keras.ops.convert_to_numpy(output) for output in outputs]
    if not all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f"):
        return "the model's outputs are not finite, but its weights and the batch are"
    names = ", ".join(name for name, value in logs.items() if not math.isfinite(value))
    return f"{names} is not finite, but the model's outputs and the batch are"


def _describe_update(model, state, batch, path):
    """Recovers the gradients from a step of plain gradient descent."""
    set_state(model, state)
    learning_rate = float(np.max(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    model.optimizer = keras.optimizers.SGD(1.0)
    model.make_train_function(force=True)
    model.train_on_batch(*batch)
    weights = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.trainable_variables
    }
    if names := non_finite_names(weights):
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        return f"the gradient of {names[0]}{others} is not finite, but the loss is"
    return f"the update with learning rate {learning_rate:.3g} makes {path} non-finite"
