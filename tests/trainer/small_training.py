"""A training that takes no time, with all that has a state."""

import dataclasses
import json
import time

import keras
import numpy as np
from safetensors.numpy import load_file

from keras_spm.data.pipeline import repeated_batches
from keras_spm.optimizers import AdamW
from keras_spm.optimizers import WarmupCosine
from keras_spm.trainer.engine import train
from keras_spm.trainer.run_folder import RunFolder
from keras_spm.trainer.setup import Prepared

_READING = 0.01  # Seconds an example, so that a step takes some time.
COUNT, SIZE, CLASSES, STEPS = 40, 6, 3, 8
_GENERATOR = np.random.default_rng(0)
FEATURES = _GENERATOR.normal(size=(COUNT, SIZE)).astype("float32")
LABELS = _GENERATOR.integers(CLASSES, size=COUNT).astype("int32")
RATES = WarmupCosine(1e-2, 3 * STEPS, 5)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """As much of a recipe as the engine asks for."""

    epochs: int = 3
    checkpoint_steps: int = 3
    seed: int = 0

    def as_dict(self):
        return dataclasses.asdict(self)


def small_model(seed, *layers):
    """Returns a compiled classifier, with other layers in the midst of it."""
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
        AdamW(
            RATES,
            use_ema=True,
            ema_momentum=0.8,
            gradient_accumulation_steps=2,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def batches(seed=0, features=FEATURES):
    """Returns those of `repeated_batches`, of features with noise, and labels."""

    def prepared(place, generator):
        time.sleep(_READING)
        return features[place] + generator.normal(0, 0.1, SIZE).astype("float32"), LABELS[place]

    def collated(pairs):
        return tuple(np.stack(part) for part in zip(*pairs, strict=True))

    return repeated_batches(range(COUNT), prepared, collated, COUNT // STEPS, seed)


def train_small(output, recipe=None, model=None, data=None, callbacks=()):
    """Trains, and leaves a run folder with a result; returns the `Training`."""
    recipe = recipe or Recipe()
    folder = RunFolder(output)
    model = model or small_model(recipe.seed)
    data = batches(recipe.seed) if data is None else data
    training = train(
        Prepared(model, data, STEPS, RATES, None, {}),
        recipe,
        folder,
        verbose=0,
        monitor=("val_loss", "min"),
        validation=(FEATURES[:10], LABELS[:10]),
        callbacks=[*callbacks, keras.callbacks.SwapEMAWeights()],
    )
    folder.finish({"best_epoch": training.best_epoch, "seconds": training.seconds})
    return training


def left(output):
    """Returns {name: contents} of what two runs must have alike: metrics, result, best model."""
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
