"""What every training does: its optimizer, its fit, and what it leaves of itself."""

import dataclasses
import pathlib
import platform
import time

import keras
import numpy as np

from keras_spm.environment import git_revision
from keras_spm.environment import versions


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished `fit`.

    Attributes:
        history: {metric: value for each epoch}.
        best_epoch: int, from 1 on, the one that did best on the validation part.
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


def train(
    model,
    batches,
    recipe,
    folder,
    verbose,
    monitor,
    steps_per_epoch=None,
    validation=None,
    callbacks=(),
):
    """Fits a compiled model, and starts its run folder: recipe, versions, metrics, best model.

    Args:
        model: a compiled task.
        batches: data set for the whole training.
        recipe: a `Recipe`.
        folder: a `RunFolder` that has not started.
        verbose: as `keras.Model.fit` takes it.
        monitor: (metric, `"min"` or `"max"`) by which the best epoch is known.
        steps_per_epoch: int, by default the recipe's.
        validation: (images, labels), or None where one of the callbacks validates.
        callbacks: more of them; what they write into the logs is kept.

    Returns:
        A `Training`.
    """
    folder.start()
    folder.write("recipe.json", recipe.as_dict())
    environment = {**versions(), "revision": git_revision(), "machine": platform.platform()}
    folder.write("environment.json", environment)
    best_model = folder.working_path / "best.keras"
    metric, mode = monitor
    started = time.perf_counter()
    history = model.fit(
        batches,
        shuffle=False,
        steps_per_epoch=steps_per_epoch or recipe.steps_per_epoch,
        epochs=recipe.epochs,
        validation_data=validation,
        callbacks=[
            *callbacks,
            keras.callbacks.CSVLogger(str(folder.working_path / "metrics.csv")),
            keras.callbacks.ModelCheckpoint(
                str(best_model), monitor=metric, mode=mode, save_best_only=True
            ),
        ],
        verbose=verbose,
    ).history
    seconds = round(time.perf_counter() - started, 1)
    best = np.argmin if mode == "min" else np.argmax
    return Training(history, int(best(history[metric])) + 1, best_model, seconds)
