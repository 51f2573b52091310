"""Trains by a recipe: fit with checkpoints, keep the best epoch, test, and draw."""

import contextlib
import dataclasses
import functools
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import keras

from keras_spm.backend import processes, replicas
from keras_spm.data.pipeline import read_ahead
from keras_spm.data.report import describe_data
from keras_spm.data.splits import NO_TEST_SPLIT
from keras_spm.environment import git_revision, versions
from keras_spm.files import atomic_write
from keras_spm.terminal import printable
from keras_spm.trainer.backup import BackupAndRestore, last_checkpoint
from keras_spm.trainer.callbacks import DrawSamples, History, ProgressLines, TensorBoard, write_csv
from keras_spm.trainer.checkpoints import (
    Checkpoints,
    TrainingError,
    checkpoint_folders,
    describe_newest,
)
from keras_spm.trainer.dry_run import describe_setup
from keras_spm.trainer.nan_debug import CheckFiniteLoss, explain_errors
from keras_spm.trainer.recipe import Recipe, Setup
from keras_spm.trainer.run_folder import RunFolder
from keras_spm.trainer.watchdog import Watchdog
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
    processes.check_same("recipe and versions", {**recipe.as_dict(), **versions()})
    path = folder.working_path
    report = None if setup.data is None else describe_data(setup.data)
    processes.check_same("data", report or {})
    if verbose:
        print(printable(describe_setup(setup, report), keep="\n"))
    callbacks = []
    if replicas.is_writer():
        callbacks = [TensorBoard(path / "tensorboard"), DrawSamples(setup, path / "samples.png")]
    if verbose == 2:
        callbacks.append(ProgressLines())
    if report is not None and replicas.is_writer():
        write = functools.partial(folder.write, "data.json", report)
        callbacks.append(keras.callbacks.LambdaCallback(on_train_begin=lambda logs: write()))
    training = train(setup, recipe, folder, verbose, callbacks)
    with processes.failing_together(TrainingError), _output_of_writer(path) as output:
        if setup.model.optimizer.use_ema:
            _assign_averages(training.best_model)
        plotted = _plotted(setup, training.history)
        plot_training_curves(training.history, output / "curves.png", plotted)
    # Other processes read the file of the first one, and predict with it.
    model = keras.saving.load_model(training.best_model)
    split, examples, class_names = _evaluated_split(setup, recipe)
    metrics = recipe.evaluate(model, examples, class_names)
    with processes.failing_together(TrainingError), _output_of_writer(path) as output:
        _write_class_metrics(metrics, output / "metrics_per_class.csv")
        recipe.draw(model, examples, output)
    result = {
        **{f"{split}_{name}": value for name, value in metrics.items() if "/" not in name},
        **training.best_validation(),
        "best_epoch": training.best_epoch,
        "seconds": training.seconds,
    }
    with processes.failing_together(TrainingError):
        if replicas.is_writer():
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
    _check_preparation(setup, folder.working_path)
    with _started(folder, recipe) as path:
        history = History(path, setup.monitor)
        checkpoints = Checkpoints(path / "checkpoints", history.best_model)
        if setup.prepare is not None and last_checkpoint(checkpoints) is None:
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
        watchdog = Watchdog(
            path / "processes", lambda: backup.step, lambda: describe_newest(path / "checkpoints")
        )
        explained = explain_errors(
            model, batches, checkpoints, lambda: backup.step, setup.validation
        )
        with watchdog, explained:
            start, end = backup.prepare(model), recipe.epochs * steps
            if start and verbose:
                print(f"{path}: resuming after step {start} of {end}.")
            while start < end:
                epoch, finished_steps = divmod(start, steps)
                with replicas.local_batches():
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
        if replicas.is_writer():
            shutil.rmtree(path / "processes", ignore_errors=True)
        return Training(history.metrics, history.best_epoch, history.best_model, backup.seconds)


def _check_preparation(setup, path):
    """Raises an error before a transplant on several devices; nothing is written."""
    if setup.prepare is None or replicas.count() == 1:
        return
    if not processes.of_first_process(bool(checkpoint_folders(path / "checkpoints"))):
        raise ValueError(
            "`transplant_images` must be 0 on several devices in a new run. Start it on one "
            "device, and end it after the first epoch: it resumes on several. Received: "
            f"{replicas.count()} devices"
        )


@contextlib.contextmanager
def _output_of_writer(path):
    """Yields the path, or a temporary folder for all processes but the first."""
    if replicas.is_writer():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def _as_dataset(batches):
    """Converts a sequence of batches to an endless Grain data set."""
    import grain

    if isinstance(batches, grain.MapDataset):
        return batches
    return grain.MapDataset.source(batches).repeat()


@contextlib.contextmanager
def _started(folder, recipe):
    """Starts a run and returns its working path. If the run fails, the folder is released."""
    with processes.failing_together(FileExistsError):
        if replicas.is_writer():
            folder.start(recipe)
            environment = {**versions(), "revision": git_revision()}
            folder.write("environment.json", {**environment, "machine": platform.platform()})
    try:
        yield folder.working_path
    except BaseException:
        folder.release()
        raise


def _assign_averages(path):
    """Replaces the weights of a saved model by the averages in its optimizer."""
    model = keras.saving.load_model(path)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    if replicas.is_writer():
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
