"""A training of a few seconds, with every kind of state."""

import dataclasses
import json
import time

import keras
import numpy as np
from safetensors.numpy import load_file

from keras_spm.data.pipeline import repeated_batches
from keras_spm.optimizers import AdamW, WarmupCosine
from keras_spm.trainer import RunFolder, Setup, train

_READ_SECONDS = 0.01  # Per example.
COUNT, SIZE, CLASSES, STEPS = 40, 6, 3, 8
_GENERATOR = np.random.default_rng(0)
FEATURES = _GENERATOR.normal(size=(COUNT, SIZE)).astype("float32")
LABELS = _GENERATOR.integers(CLASSES, size=COUNT).astype("int32")
SCHEDULE = WarmupCosine(1e-2, 3 * STEPS, 5)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The part of a recipe that `train` uses."""

    epochs: int = 3
    checkpoint_steps: int = 3
    seed: int = 0

    def as_dict(self):
        return dataclasses.asdict(self)


def small_model(seed, *layers):
    """Returns a compiled classifier with additional hidden layers."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((SIZE,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            *layers,
            keras.layers.Dense(CLASSES),
        ]
    )
    model.compile(
        AdamW(SCHEDULE, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def batches(seed=0, features=FEATURES):
    """Returns repeated batches of noisy features and labels."""

    def add_noise(index, generator):
        time.sleep(_READ_SECONDS)
        return features[index] + generator.normal(0, 0.1, SIZE).astype("float32"), LABELS[index]

    def collate(pairs):
        return tuple(np.stack(part) for part in zip(*pairs, strict=True))

    return repeated_batches(range(COUNT), add_noise, collate, COUNT // STEPS, seed)


def train_small(output, recipe=None, model=None, data=None, callbacks=()):
    """Trains and writes a run folder with a result. Returns the `Training`."""
    recipe = recipe or Recipe()
    folder = RunFolder(output)
    model = model or small_model(recipe.seed)
    data = batches(recipe.seed) if data is None else data
    setup = Setup(
        model, data, STEPS, validation=(FEATURES[:10], LABELS[:10]), callbacks=tuple(callbacks)
    )
    training = train(setup, recipe, folder, verbose=0)
    folder.finish({"best_epoch": training.best_epoch, "seconds": training.seconds})
    return training


def read_run(output):
    """Returns {name: contents} of metrics, result and best model, to compare runs."""
    result = json.loads((output / "result.json").read_text())
    del result["seconds"]
    model = keras.saving.load_model(output / "best.keras")
    arrays = [*model.weights, *model.optimizer.variables]
    return {
        "metrics.csv": (output / "metrics.csv").read_text(),
        "result.json": result,
        "best.keras": [keras.ops.convert_to_numpy(each).tobytes() for each in arrays],
    }


def read_checkpoint(path):
    """Returns a checkpoint's {name: array}."""
    return load_file(path / "state.safetensors")
