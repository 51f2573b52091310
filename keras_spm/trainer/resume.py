"""A `fit` that goes on where a checkpoint was taken, and takes the next ones."""

import math
import time

import keras

from keras_spm.trainer.training_state import build_metrics
from keras_spm.trainer.training_state import captured
from keras_spm.trainer.training_state import not_finite
from keras_spm.trainer.training_state import restore
from keras_spm.trainer.training_state import variables


class NotFiniteError(Exception):
    """A value is not finite any more.

    Attributes:
        step: int, how many batches came before the one after which it was seen.
        what: str.
    """

    def __init__(self, step, what):
        super().__init__(what)
        self.step = step
        self.what = what


class FiniteLoss(keras.callbacks.Callback):
    """Ends a `fit` with `NotFiniteError` when the loss is no longer finite.

    It looks at the logs that Keras fetches after each batch in any case, in Keras's own
    thread where it has one: nothing waits for the device.

    Args:
        position: function (epoch, batch) that returns the step.
    """

    async_safe = True

    def __init__(self, position):
        super().__init__()
        self._position = position

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise NotFiniteError(self._position(self._epoch, batch), f"the loss is {logs['loss']}")


class Continuation(keras.callbacks.Callback):
    """Puts a `fit` where the last checkpoint was taken, and takes checkpoints in it.

    That happens when everything is there that could draw random numbers or reset something
    by then: before the first batch is trained on. A training that starts does the same,
    from a checkpoint of its start; so a run that was never interrupted draws what an
    interrupted one draws.

    It must be the last of the callbacks: its checkpoints hold what the others wrote into
    the logs.

    Args:
        batches: sequence of all batches of the training.
        checkpoints: a `Checkpoints`.
        record: a `Record`.
        steps_per_epoch: int.
        every: int, steps from one checkpoint to the next within an epoch; 0 for none.

    Attributes:
        step: int, how many batches have been trained on.
    """

    def __init__(self, batches, checkpoints, record, steps_per_epoch, every):
        super().__init__()
        self._batches = batches
        self._checkpoints = checkpoints
        self._record = record
        self._steps_per_epoch = steps_per_epoch
        self._every = every
        self.step = 0

    def prepare(self, model):
        """Reads the last checkpoint, or takes the first one, for the next `fit`.

        Returns:
            int, the step at which that begins.
        """
        checkpoint = self._checkpoints.last()
        self._seconds = checkpoint.progress["seconds"] if checkpoint else 0.0
        self._started = time.perf_counter()
        if checkpoint is None:
            self._record.put_back({})
            self._save(0, model)
            checkpoint = self._checkpoints.last()
        self._record.put_back(checkpoint.progress["history"])
        self._arrays, self._first_step = checkpoint.arrays, checkpoint.step
        self.step = checkpoint.step
        return checkpoint.step

    def position(self, epoch, batch):
        """Returns the step that is an epoch's batch in this `fit`, which may start within one."""
        return max(self._first_step, epoch * self._steps_per_epoch) + batch

    @property
    def seconds(self):
        """That the training took, without what was lost with a process."""
        return round(self._seconds + time.perf_counter() - self._started, 1)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.step = self.position(self._epoch, batch)
        if self._arrays is not None:
            self._restore()
        elif batch and self._every and self.step % self._every == 0:
            self._save(self.step, self.model, metrics=True)

    def on_epoch_end(self, epoch, logs=None):
        self.step = (epoch + 1) * self._steps_per_epoch
        arrays = self._finite(self.step, self.model)
        self._record.add(self.model, logs)
        self._write(self.step, arrays)

    def _restore(self):
        within_epoch = self._first_step % self._steps_per_epoch
        if within_epoch:
            build_metrics(self.model, self._batches[self._first_step])
        restore(self.model, self._arrays)
        self._arrays = None

    def _save(self, step, model, metrics=False):
        self._write(step, self._finite(step, model, metrics))

    def _finite(self, step, model, metrics=False):
        arrays = captured(model, metrics)
        for name in not_finite(arrays):
            raise NotFiniteError(step - 1, f"{variables(model)[name].path} is not finite")
        return arrays

    def _write(self, step, arrays):
        progress = {"seconds": self.seconds, "history": self._record.history}
        self._checkpoints.save(step, arrays, progress)
