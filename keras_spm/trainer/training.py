"""Trains by a recipe: fit with checkpoints, keep the best epoch, test, and draw."""

import contextlib
import dataclasses
import functools
import pathlib
import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_spm.data.pipeline import read_ahead
from keras_spm.data.report import describe_data
from keras_spm.data.splits import NO_TEST_SPLIT
from keras_spm.environment import git_revision, versions
from keras_spm.files import atomic_write
from keras_spm.terminal import printable
from keras_spm.trainer.callbacks import DrawSamples, History, ProgressLines, TensorBoard, write_csv
from keras_spm.trainer.checkpoints import (
    Checkpoints,
    get_state,
    named_variables,
    non_finite_names,
    set_state,
)
from keras_spm.trainer.dry_run import describe_setup
from keras_spm.trainer.nan_debug import CheckFiniteLoss, NonFiniteError, explain_errors
from keras_spm.trainer.recipe import Recipe, Setup
from keras_spm.trainer.run_folder import RunFolder
from keras_spm.visualize import plot_training_curves


def run(recipe: Recipe, folder: RunFolder, verbose: int = 1) -> dict[str, float]:
    """Trains by a recipe, tests the model of the best epoch, and writes the run folder.

    The test split is used once, with the model that was loaded back from its file. If there is
    none, the model is evaluated on the validation split, and the result has no `test_…` metrics.

    Args:
        recipe: any recipe.
        folder: run folder that has not started.
        verbose: as in `keras.Model.fit`.

    Returns:
        The result: `test_…` metrics; `validation_…` metrics of the best epoch; `best_epoch`,
        from 1; and `seconds` of training.

    Raises:
        FileExistsError, TrainingError: as in `train`.
    """
    setup = recipe.setup()
    path = folder.working_path
    report = None if setup.data is None else describe_data(setup.data)
    if verbose:
        print(printable(describe_setup(setup, report), keep="\n"))
    callbacks = [TensorBoard(path / "tensorboard"), DrawSamples(setup, path / "samples.png")]
    if verbose == 2:
        callbacks.append(ProgressLines())
    if report is not None:
        write = functools.partial(folder.write, "data.json", report)
        callbacks.append(keras.callbacks.LambdaCallback(on_train_begin=lambda logs: write()))
    training = train(setup, recipe, folder, verbose, callbacks)
    if setup.model.optimizer.use_ema:
        _assign_averages(training.best_model)
    plot_training_curves(training.history, path / "curves.png", _plotted(setup, training.history))
    model = keras.saving.load_model(training.best_model)
    split, examples, class_names = _evaluated_split(setup, recipe)
    metrics = recipe.evaluate(model, examples, class_names)
    _write_class_metrics(metrics, path / "metrics_per_class.csv")
    recipe.draw(model, examples, path)
    result = {
        **{f"{split}_{name}": value for name, value in metrics.items() if "/" not in name},
        **training.best_validation(),
        "best_epoch": training.best_epoch,
        "seconds": training.seconds,
    }
    folder.finish(result)
    if split == "validation" and verbose:
        print(NO_TEST_SPLIT)
    return result


def _evaluated_split(setup, recipe):
    """Returns (name, examples, class names) of the split that the best model is evaluated on."""
    if setup.data is None:
        return ("test", *recipe.test_examples())
    split = "validation" if setup.data.test is None else "test"
    return split, getattr(setup.data, split), setup.data.class_names


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished `fit`.

    Attributes:
        history: {metric: value of each epoch}.
        best_epoch: int, from 1, the best epoch on the validation split.
        best_model: path of the model after that epoch.
        seconds: duration of the training.
    """

    history: dict[str, list[float]]
    best_epoch: int
    best_model: pathlib.Path
    seconds: float

    def best_validation(self) -> dict[str, float]:
        """Returns {"validation_…": value in the best epoch}."""
        return {
            name.replace("val_", "validation_", 1): values[self.best_epoch - 1]
            for name, values in self.history.items()
            if name.startswith("val_")
        }


def train(
    setup: Setup,
    recipe: Recipe,
    folder: RunFolder,
    verbose: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> Training:
    """Fits a model, from the start or from the last checkpoint of an unfinished run.

    The run folder gets the recipe, versions, metrics, the best model, and checkpoints: after
    each epoch, and every `checkpoint_steps` of the recipe.

    Args:
        setup: model and data.
        recipe: its `epochs` and `checkpoint_steps` are used, and `as_dict` is written.
        folder: run folder that has not started.
        verbose: as in `keras.Model.fit`.
        callbacks: called after those of the setup.

    Raises:
        FileExistsError: as in `RunFolder.start`.
        TrainingError: if a value is not finite, a batch cannot be read, or a checkpoint cannot
            be read or written.
    """
    model, batches, steps = setup.model, _as_dataset(setup.batches), setup.steps_per_epoch
    with _started(folder, recipe) as path:
        history = History(path, setup.monitor)
        checkpoints = Checkpoints(path / "checkpoints", history.best_model)
        if setup.prepare is not None and checkpoints.last() is None:
            setup.prepare(bool(verbose))
        backup = BackupAndRestore(batches, checkpoints, history, steps, recipe.checkpoint_steps)
        callbacks = [
            # Uses the averages of the weights during validation.
            *([keras.callbacks.SwapEMAWeights()] if model.optimizer.use_ema else []),
            *setup.callbacks,
            *callbacks,
            CheckFiniteLoss(backup.step_of),
            backup,
        ]
        with explain_errors(model, batches, checkpoints, lambda: backup.step, setup.validation):
            start, end = backup.prepare(model), recipe.epochs * steps
            if start and verbose:
                print(f"{path}: resuming after step {start} of {end}.")
            while start < end:
                epoch, finished_steps = divmod(start, steps)
                model.fit(
                    read_ahead(batches, start),
                    shuffle=False,
                    initial_epoch=epoch,
                    # The rest of an epoch has its own `fit`, because it has fewer steps.
                    epochs=epoch + 1 if finished_steps else recipe.epochs,
                    steps_per_epoch=steps - finished_steps,
                    validation_data=setup.validation,
                    callbacks=callbacks,
                    verbose=verbose,
                )
                start = backup.step
                if start < end:
                    backup.prepare(model)
        return Training(history.metrics, history.best_epoch, history.best_model, backup.seconds)


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
        checkpoint = self._checkpoints.last()
        self._earlier_seconds = checkpoint.progress["seconds"] if checkpoint else 0.0
        self._started = time.perf_counter()
        if checkpoint is None:
            self._history.restore({})
            self._save(0, self._finite_state(0, model))
            checkpoint = self._checkpoints.last()
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
        self._history.add(self.model, logs)
        self._save(self.step, arrays)

    def _restore(self):
        if self._first_step % self._steps_per_epoch:
            _build_metrics(self.model, self._batches[self._first_step])
        set_state(self.model, self._arrays)
        self._arrays = None

    def _finite_state(self, step, model, metrics=False):
        arrays = get_state(model, metrics)
        for name in non_finite_names(arrays):
            raise NonFiniteError(step - 1, f"{named_variables(model)[name].path} is not finite")
        return arrays

    def _save(self, step, arrays):
        progress = {"seconds": self.seconds, "history": self._history.metrics}
        self._checkpoints.save(step, arrays, progress)


def _build_metrics(model, batch):
    """Builds the metrics that Keras builds with the first batch, and resets them."""
    images, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)
    shapes = model.compute_output_shape(images.shape)
    outputs = keras.tree.map_shape_structure(lambda shape: keras.ops.zeros(shape), shapes)
    model.compute_metrics(images, targets, outputs, weights)
    model.reset_metrics()


def _as_dataset(batches):
    """Converts a sequence of batches to an endless Grain data set."""
    import grain

    if isinstance(batches, grain.MapDataset):
        return batches
    return grain.MapDataset.source(batches).repeat()


@contextlib.contextmanager
def _started(folder, recipe):
    """Starts a run and returns its working path. If the run fails, the folder is released."""
    folder.start(recipe)
    try:
        environment = {**versions(), "revision": git_revision(), "machine": platform.platform()}
        folder.write("environment.json", environment)
        yield folder.working_path
    except BaseException:
        folder.release()
        raise


def _assign_averages(path):
    """Replaces the weights of a saved model by the averages in its optimizer."""
    model = keras.saving.load_model(path)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    with atomic_write(path, durable=True) as temporary:
        model.save(temporary)


def _plotted(setup, history):
    """Returns the names of the two metrics of `curves.png`."""
    monitored = setup.monitor[0].removeprefix("val_")
    others = (name for name in history if not name.endswith("loss"))
    return "loss", next(others, "loss") if monitored == "loss" else monitored


def _write_class_metrics(metrics, path):
    """Writes metrics with names "metric/class" into a table with a row for each class."""
    rows: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        metric, separator, class_name = name.partition("/")
        if separator:
            rows.setdefault(class_name, {"class": class_name})[metric] = f"{value:.4f}"
    if rows:
        write_csv(
            path, list(next(iter(rows.values()))), [list(row.values()) for row in rows.values()]
        )
