"""Trains layers so that the outputs of one network equal those of another."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.backend import SafeTrainer
from keras_spm.losses.unexplained_variance import unexplained_variance
from keras_spm.transplantation.images import ShiftedBatches
from keras_spm.types import Tensor

_PATIENCE = 0.5  # Of the early stop, as a share of all epochs.
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class MergingFit:
    """Explained variance of one merging on held-out images.

    It is 1 - (squared error) / (variance of the original merging's outputs), summed over
    positions and channels: 1 for equal outputs, 0 for the mean of each channel. Both mergings
    read the maps that they get in their own networks.

    Attributes:
        before: with the initial weights.
        initialized: after the closed-form initialization.
        regressed: after the regression of each merging.
        after: after the maps were matched end to end.
    """

    before: float
    initialized: float
    regressed: float
    after: float


@dataclasses.dataclass(frozen=True)
class TransplantReport:
    """Result of `keras_spm.transplant`; print it for a table.

    Attributes:
        mergings: {name of the stage: `MergingFit`}.
        images: number of images that were trained on.
        held_out_images: number of images that the explained variance was measured on.
        steps: (steps of the regression, steps of the matching end to end); fewer than asked
            for after an early stop.
        seconds: duration.
    """

    mergings: dict[str, MergingFit]
    images: int
    held_out_images: int
    steps: tuple[int, int]
    seconds: float

    def __str__(self) -> str:
        phases = [field.name for field in dataclasses.fields(MergingFit)]
        lines = [
            f"Explained variance on {self.held_out_images} held-out images, after "
            f"{self.steps[0]} + {self.steps[1]} steps on {self.images} images "
            f"({self.seconds:.0f} s)",
            "".join(f"{name:>13}" for name in ("", *phases)),
        ]
        for name, fit in self.mergings.items():
            values = "".join(f"{value:13.1%}" for value in dataclasses.astuple(fit))
            lines.append(f"{name:>13}{values}")
        return "\n".join(lines)


class Matching(SafeTrainer, keras.Model):
    """A functional model with outputs {name: (student, teacher)}, which are trained to be equal.

    The loss is the mean unexplained variance: 1 minus the explained variance of the batch.

    Args:
        inputs, outputs: as in `keras.Model`.
        inference: bool, whether drop path is off and moving statistics are used, also in `fit`.
    """

    def __init__(self, inputs: Any, outputs: Any, inference: bool = False) -> None:
        super().__init__(inputs=inputs, outputs=outputs)
        self._inference = inference

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        training = False if self._inference else training
        return super().call(inputs, training=training, mask=mask)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        losses = [unexplained_variance(teacher, student) for student, teacher in y_pred.values()]
        return sum(losses) / len(losses)


def explained_variance(model: keras.Model, batches: Iterable[np.ndarray]) -> dict[str, float]:
    """Returns {name: explained variance} of the outputs of a `Matching` over all batches."""
    errors, sums, squares, counts = {}, {}, {}, {}
    for batch in batches:
        for name, pair in model.predict_on_batch(batch).items():
            student, teacher = (np.asarray(each, "float64") for each in pair)
            student, teacher = (each.reshape(-1, each.shape[-1]) for each in (student, teacher))
            errors[name] = errors.get(name, 0) + np.square(student - teacher).sum()
            sums[name] = sums.get(name, 0) + teacher.sum(axis=0)
            squares[name] = squares.get(name, 0) + np.square(teacher).sum()
            counts[name] = counts.get(name, 0) + len(teacher)
    result = {}
    for name, error in errors.items():
        variance = squares[name] - np.square(sums[name]).sum() / counts[name]
        result[name] = float(1 - error / max(variance, _TINY))
    return result


def fit(
    model: Matching,
    batches: ShiftedBatches,
    held_out: Sequence[np.ndarray],
    steps: int,
    learning_rate: float,
    title: str,
    verbose: bool,
) -> int:
    """Trains for at most `steps` steps; returns their number.

    The learning rate falls to 0 as a cosine. The training stops early when the loss of the
    held-out images no longer decreases, and the best weights are kept.
    """
    epochs = math.ceil(steps / len(batches))
    warmup = min(steps // 10, 50)
    schedule = keras.optimizers.schedules.CosineDecay(
        *(0.0, max(epochs * len(batches) - warmup, 1)),
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    model.compile(keras.optimizers.Adam(schedule))
    stopping = _EarlyStop(model, held_out, max(math.ceil(epochs * _PATIENCE), 3))
    progress = _Progress(title, epochs * len(batches), verbose)
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        validation_data=held_out,
        callbacks=[stopping, progress],
        verbose=0,
    )
    return progress.steps


class _EarlyStop(keras.callbacks.EarlyStopping):
    """Keras's early stop, which also knows the weights before the training."""

    def __init__(self, model, held_out, patience):
        super().__init__(
            "val_loss",
            patience=patience,
            mode="min",
            restore_best_weights=True,
            start_from_epoch=-1,
        )
        self._first = {"val_loss": model.evaluate(held_out, verbose=0)}

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self.on_epoch_end(-1, self._first)


class _Progress(keras.callbacks.Callback):
    """One progress bar of Keras for all epochs."""

    def __init__(self, title, steps, verbose):
        super().__init__()
        self._title = title
        self._verbose = verbose
        self._bar = keras.utils.Progbar(
            steps, verbose=int(verbose), stateful_metrics=["loss", "val_loss"]
        )
        self._last = {}
        self.steps = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._verbose:
            print(self._title)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        self._update(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._last = {"val_loss": logs["val_loss"]} if "val_loss" in logs else {}

    def on_train_end(self, logs: dict | None = None) -> None:
        # After an early stop, the bar is finished where it is.
        self._bar.target = max(self.steps, 1)
        self._update({}, finalize=True)

    def _update(self, logs, finalize=None):
        values = [("loss", logs["loss"])] if logs and "loss" in logs else []
        self._bar.update(self.steps, [*values, *self._last.items()], finalize=finalize)
