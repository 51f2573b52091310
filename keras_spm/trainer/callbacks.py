"""Files that a training writes: metrics, the best model, TensorBoard's curves, samples."""

import csv
import importlib.util
import math
import os
import pathlib
import time
import warnings
from collections.abc import Iterable

import keras

from keras_spm.backend import replicas
from keras_spm.files import atomic_write
from keras_spm.trainer.recipe import Setup

_SAMPLES = 8


class History:
    """The metrics of all epochs, also in `metrics.csv`, and the model of the best epoch.

    Args:
        folder: working folder of the run.
        monitor: (metric, `"min"` or `"max"`) that selects the best epoch.

    Attributes:
        metrics: {metric: value of each epoch}, NaN in epochs in which it was not measured.
        best_model: path of the model after the best epoch.
    """

    def __init__(self, folder: pathlib.Path, monitor: tuple[str, str]):
        self.metrics = {}
        self.best_model = folder / "best.keras"
        self._table = folder / "metrics.csv"
        self._metric, self._mode = monitor

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, from 1; the first one of equal epochs.

        It is the last epoch while the metric that selects it was never measured.
        """
        if self._metric not in self.metrics:
            return self._epochs
        sign = 1 if self._mode == "min" else -1
        values = [sign * value for value in self.metrics[self._metric]]
        values = [math.inf if math.isnan(value) else value for value in values]
        return values.index(min(values)) + 1

    @property
    def _epochs(self):
        return max(map(len, self.metrics.values()), default=0)

    def restore(self, metrics: dict[str, list[float]]) -> None:
        """Restores the metrics of a checkpoint."""
        self.metrics = {name: list(values) for name, values in metrics.items()}
        self._write_table()

    def add(self, model: keras.Model, logs: dict[str, float]) -> None:
        """Adds the metrics of an epoch, and saves the model if the epoch is the best so far."""
        epochs = self._epochs
        for name in {**self.metrics, **logs}:
            values = self.metrics.setdefault(name, [math.nan] * epochs)
            values.append(float(logs.get(name, math.nan)))
        self._write_table()
        if not epochs and self._metric not in logs:
            warnings.warn(
                f"{self._metric!r}, which selects the best epoch, is not among the metrics of the "
                f"first epoch: {', '.join(logs)}. Until it is, the last epoch is the best.",
                stacklevel=2,
            )
        if self.best_epoch == self._epochs and replicas.is_writer():
            with atomic_write(self.best_model, durable=True) as path:
                model.save(path)

    def _write_table(self):
        if not replicas.is_writer():
            return
        # In the format of `keras.callbacks.CSVLogger`.
        names = sorted(self.metrics)
        columns = zip(*(self.metrics[name] for name in names), strict=True)
        rows = [[epoch, *values] for epoch, values in enumerate(columns)]
        with atomic_write(self._table, durable=True) as path:
            write_csv(path, ["epoch", *names], rows)


def write_csv(path: pathlib.Path, header: list[str], rows: Iterable[list]) -> None:
    """Writes a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


class TensorBoard(keras.callbacks.Callback):
    """Writes each epoch's metrics and learning rate for TensorBoard.

    They are written to the folders `training` and `validation` under the same names, so that
    TensorBoard shows both curves in one plot. A resumed training adds a file to each folder.
    Nothing is written if the package `tensorboard` is not installed. TensorFlow is not needed;
    Keras's own callback needs it.

    Args:
        folder: log folder.
    """

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._folder = pathlib.Path(folder)
        self._name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._installed = importlib.util.find_spec("tensorboard") is not None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not self._installed:
            return
        learning_rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        metrics = {"training": {"learning_rate": learning_rate}, "validation": {}}
        for name, value in (logs or {}).items():
            kind = "validation" if name.startswith("val_") else "training"
            metrics[kind][name.removeprefix("val_")] = value
        for kind, values in metrics.items():
            if values:
                self._write(self._folder / kind, values, epoch + 1)

    def _write(self, folder, values, step):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        scalars = [
            Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()
        ]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / self._name).open("ab") as file:
            writer = RecordWriter(file)
            if not file.tell():
                header = Event(wall_time=time.time(), file_version="brain.Event:2")
                writer.write(header.SerializeToString())
            writer.write(event.SerializeToString())


class ProgressLines(keras.callbacks.Callback):
    """Prints the progress of an epoch every few seconds, where there is no progress bar."""

    def __init__(self, seconds: float = 10.0):
        super().__init__()
        self._seconds = seconds

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._started = epoch, time.monotonic()
        self._printed = self._started

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now, steps = time.monotonic(), self.params["steps"]
        if now - self._printed >= self._seconds:
            self._printed = now
            values = "".join(f", {name} {value:.4g}" for name, value in (logs or {}).items())
            left = (now - self._started) / (batch + 1) * (steps - batch - 1)
            print(
                f"epoch {self._epoch + 1}, step {batch + 1} of {steps}{values}, "
                f"{left:.0f} s left in the epoch",
                flush=True,
            )


class DrawSamples(keras.callbacks.Callback):
    """Draws the first batch, augmented and with its targets, before the first step."""

    def __init__(self, setup: Setup, path: pathlib.Path):
        super().__init__()
        self._setup = setup
        self._path = path

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self._path.exists():
            images, targets = self._setup.first_batch()
            with atomic_write(self._path, durable=True) as path:
                self._setup.model.draw(images[:_SAMPLES], path, targets)
