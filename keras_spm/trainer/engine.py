"""What every training does: its optimizer, its fit, and what it leaves of itself."""

import contextlib
import dataclasses
import pathlib
import platform

from keras_spm.data.pipeline import read_ahead
from keras_spm.environment import git_revision
from keras_spm.environment import versions
from keras_spm.trainer.checkpoints import Checkpoints
from keras_spm.trainer.diagnosis import explained
from keras_spm.trainer.history import Record
from keras_spm.trainer.resume import Continuation
from keras_spm.trainer.resume import FiniteLoss


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished `fit`.

    Attributes:
        history: {metric: value for each epoch}.
        best_epoch: int, from 1 on, the one that did best on the validation split.
        best_model: path of the model as it was then.
        seconds: that `fit` took.
    """

    history: dict
    best_epoch: int
    best_model: pathlib.Path
    seconds: float

    def best(self, metric):
        """Returns a metric's value in the best epoch."""
        return self.history[metric][self.best_epoch - 1]


def train(prepared, recipe, folder, verbose, monitor, validation=None, callbacks=()):
    """Fits a compiled model, from the start or from where an unfinished run stopped.

    The run folder gets the recipe, versions, metrics, the best model, and checkpoints: after
    each epoch, and every `checkpoint_steps` of the recipe.

    Args:
        prepared: a `Prepared`.
        recipe: a `Recipe`.
        folder: a `RunFolder` that has not started.
        verbose: as `keras.Model.fit` takes it.
        monitor: (metric, `"min"` or `"max"`) by which the best epoch is known.
        validation: (images, labels), or None where one of the callbacks validates.
        callbacks: more of them; what they write into the logs is kept.

    Returns:
        A `Training`.

    Raises:
        FileExistsError: as `RunFolder.start` does.
        TrainingError: where a value is not finite, a batch cannot be read, or a checkpoint
            cannot be read or written.
    """
    with _started(folder, recipe) as path:
        record = Record(path, monitor)
        checkpoints = Checkpoints(path / "checkpoints", record.best_model)
        model, batches, steps = prepared.model, prepared.batches, prepared.steps_per_epoch
        continuation = Continuation(batches, checkpoints, record, steps, recipe.checkpoint_steps)
        callbacks = [*callbacks, FiniteLoss(continuation.position), continuation]
        with explained(model, batches, checkpoints, continuation, validation):
            start, end = continuation.prepare(model), recipe.epochs * steps
            if start and verbose:
                print(f"{path} goes on after step {start} of {end}.")
            while start < end:
                epoch, done = divmod(start, steps)
                model.fit(
                    read_ahead(batches, start),
                    shuffle=False,
                    initial_epoch=epoch,
                    # A split of an epoch has a `fit` of its own, which knows how many steps
                    # it has.
                    epochs=epoch + 1 if done else recipe.epochs,
                    steps_per_epoch=steps - done,
                    validation_data=validation,
                    callbacks=callbacks,
                    verbose=verbose,
                )
                start = continuation.step
                if start < end:
                    continuation.prepare(model)
        return Training(record.history, record.best_epoch, record.best_model, continuation.seconds)


@contextlib.contextmanager
def _started(folder, recipe):
    """Gives a run's working path; where the run fails, others may take the folder."""
    folder.start(recipe)
    try:
        environment = {**versions(), "revision": git_revision(), "machine": platform.platform()}
        folder.write("environment.json", environment)
        yield folder.working_path
    except BaseException:
        folder.release()
        raise
