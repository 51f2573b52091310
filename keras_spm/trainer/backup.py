"""Checkpoints during `fit`: restores the last one, and saves further ones."""

import time
from collections.abc import Sequence

import keras

from keras_spm.backend import processes, replicas
from keras_spm.trainer.callbacks import History
from keras_spm.trainer.checkpoints import (
    Checkpoint,
    Checkpoints,
    TrainingError,
    get_state,
    named_variables,
    non_finite_names,
    set_state,
)
from keras_spm.trainer.nan_debug import NonFiniteError


class BackupAndRestore(keras.callbacks.Callback):
    """Restores the last checkpoint before the first batch of `fit`, and saves checkpoints.

    Before the first batch, everything that draws random numbers or resets a state has run. A
    new training also restores a checkpoint, of its start, so that an interrupted and an
    uninterrupted training draw the same random numbers.

    It must be the last callback: its checkpoints include the logs of the others.

    Args:
        batches: sequence of all batches of the training.
        checkpoints: checkpoints of the run.
        history: recorded metrics.
        steps_per_epoch: int.
        save_every: steps between checkpoints within an epoch; 0 for none.

    Attributes:
        step: int, number of finished steps.
    """

    def __init__(
        self,
        batches: Sequence,
        checkpoints: Checkpoints,
        history: History,
        steps_per_epoch: int,
        save_every: int,
    ):
        super().__init__()
        self._batches = batches
        self._checkpoints = checkpoints
        self._history = history
        self._steps_per_epoch = steps_per_epoch
        self._save_every = save_every
        self.step = 0

    def prepare(self, model: keras.Model) -> int:
        """Reads the last checkpoint, or saves the first one. Returns the step of the next `fit`."""
        checkpoint = last_checkpoint(self._checkpoints)
        self._earlier_seconds = checkpoint.progress["seconds"] if checkpoint else 0.0
        self._started = time.perf_counter()
        if checkpoint is None:
            self._history.restore({})
            self._save(0, self._finite_state(0, model))
            checkpoint = last_checkpoint(self._checkpoints)
        self._history.restore(checkpoint.progress["history"])
        self._arrays, self._first_step = checkpoint.arrays, checkpoint.step
        self.step = checkpoint.step
        return checkpoint.step

    def step_of(self, epoch: int, batch: int) -> int:
        """Returns the step of an epoch's batch in this `fit`, which may start within an epoch."""
        return max(self._first_step, epoch * self._steps_per_epoch) + batch

    @property
    def seconds(self) -> float:
        """Duration of the training, without the steps that were lost."""
        return round(self._earlier_seconds + time.perf_counter() - self._started, 1)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.step = self.step_of(self._epoch, batch)
        if self._arrays is not None:
            self._restore()
        elif batch and self._save_every and self.step % self._save_every == 0:
            self._save(self.step, self._finite_state(self.step, self.model, metrics=True))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.step = (epoch + 1) * self._steps_per_epoch
        arrays = self._finite_state(self.step, self.model)
        with processes.failing_together(TrainingError):
            self._history.add(self.model, logs)
        self._save(self.step, arrays)

    def _restore(self):
        if self._first_step % self._steps_per_epoch:
            _build_metrics(self.model, self._batches[self._first_step])
        set_state(self.model, self._arrays)
        processes.separate_random_numbers(self.model)
        self._arrays = None

    def _finite_state(self, step, model, metrics=False):
        arrays = get_state(model, metrics)
        for name in non_finite_names(arrays):
            raise NonFiniteError(step - 1, f"{named_variables(model)[name].path} is not finite")
        return arrays

    def _save(self, step, arrays):
        progress = {"seconds": self.seconds, "history": self._history.metrics}
        with processes.failing_together(TrainingError):
            if replicas.is_writer():
                self._checkpoints.save(step, arrays, progress)
        processes.separate_generators()  # As when the checkpoint is restored.


def last_checkpoint(checkpoints: Checkpoints) -> Checkpoint | None:
    """Returns the last checkpoint that the first process finds."""
    checkpoint = None
    with processes.failing_together(TrainingError):
        if replicas.is_writer():
            checkpoint = checkpoints.last()
    return processes.of_first_process(checkpoint)


def _build_metrics(model, batch):
    """Builds the metrics that Keras builds with the first batch, and resets them."""
    images, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)
    shapes = model.compute_output_shape(images.shape)
    outputs = keras.tree.map_shape_structure(lambda shape: keras.ops.zeros(shape), shapes)
    model.compute_metrics(images, targets, outputs, weights)
    model.reset_metrics()
