"""Compares starts of Stepwise Patch Merging in a trained network.

    python training/transplanting.py digits
    python training/transplanting.py cifar10 --data FOLDER --seeds 0

A classifier on PVT v2 mini is trained with its default mergings. From its weights start networks
with Stepwise Patch Merging that are random (`random`), transplanted with unlabeled training
images (`transplant`), or behind a gate beside the default mergings (`gate`), and the network
itself (`original`). All are trained further on the same batches. The test accuracy is measured
before, during and after. Finished trainings are rows of transplanting.csv, which the site shows,
and are not repeated. FOLDER has a folder `cifar10`, as for compare.py, whose networks are taken.
"""

import argparse
import dataclasses
import pathlib
import time
import warnings

import compare
import keras
import numpy as np
from PIL import Image

import keras_spm

RESULTS = pathlib.Path(__file__).with_suffix(".csv")
KEYS = ("data", "backend", "start", "images", "seed")
PRESETS = compare.FOLDER.parent / "transplanting"
BATCH, LEARNING_RATE = 64, 1e-3


@dataclasses.dataclass(frozen=True)
class Data:
    """Arrays of images and labels, and what is done with them.

    Attributes:
        train, test: (images, labels).
        image_counts: numbers of images for a transplant.
        steps: after which the accuracy is measured, the last of them are all steps.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    image_counts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Start:
    """How the mergings start, and the number of images for it."""

    name: str
    merging: str | None = None
    images: int = 0


def read_data(name: str, folder: pathlib.Path | None) -> Data:
    """Returns the digits, or CIFAR-10 resized to 64×64."""
    if name == "digits":
        splits = keras_spm.data.load_dataset("digits")
        return Data(splits.train, splits.test, (64, 256), (0, 20, 100))
    parts = {}
    for split in ("train", "test"):
        paths = sorted((folder / name / split).glob("*/*.*"))
        classes = sorted({path.parent.name for path in paths})
        images = [Image.open(path).resize((64, 64), Image.Resampling.BILINEAR) for path in paths]
        parts[split] = (
            np.stack(images),
            np.array([classes.index(each.parent.name) for each in paths]),
        )
    return Data(**parts, image_counts=(128, 512, 2048), steps=(0, 100, 1000))


def trained_preset(name: str, data: Data, folder: pathlib.Path | None, seed: int) -> pathlib.Path:
    """Returns the preset folder of the classifier with default mergings, trained if missing."""
    preset = PRESETS / f"{name}-{seed}"
    if preset.exists():
        return preset
    if name == "digits":
        keras.utils.set_random_seed(seed)
        backbone = keras_spm.PVTv2.from_preset("mini", load_weights=False)
        model = keras_spm.ImageClassifier(backbone, num_classes=10)
        fit(model, data, seed, 800)
    else:
        run = compare.Run(name, compare.FASTEST, "default", seed=seed)
        model = keras.saving.load_model(compare.trained(run, folder))
    model.save_to_preset(preset)
    return preset


def fit(
    model: keras.Model, data: Data, seed: int, steps: int, measured: tuple[int, ...] = ()
) -> dict:
    """Trains on random batches. Returns {step: test accuracy}."""
    generator = np.random.default_rng(seed)
    images, labels = data.train
    rounds = -(-steps * BATCH // len(labels))
    order = np.concatenate([generator.permutation(len(labels)) for _ in range(rounds)])
    order = order[: steps * BATCH]
    accuracies = {0: accuracy(model, data)} if measured else {}

    def measure(batch, logs):
        if batch + 1 in measured:
            accuracies[batch + 1] = accuracy(model, data)

    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras_spm.optimizers.AdamW(schedule, weight_decay=0.05))
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=measure)
    arguments = {"batch_size": BATCH, "shuffle": False, "callbacks": [callback], "verbose": 0}
    model.fit(images[order], labels[order], **arguments)
    return accuracies


def accuracy(model: keras.Model, data: Data) -> float:
    """Returns the accuracy on the test images."""
    images, labels = data.test
    return float((model.predict(images, verbose=0).argmax(-1) == labels).mean())


def run(start: Start, data: Data, preset: pathlib.Path, seed: int) -> dict[str, str]:
    """Starts and trains a network. Returns the measured columns of its row."""
    keras.utils.set_random_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The mergings are random.
        options = {} if start.merging is None else {"merging": start.merging}
        model = keras_spm.ImageClassifier.from_preset(preset, **options)
    began = time.process_time()
    if start.images:
        images = data.train[0]
        chosen = np.random.default_rng(seed).permutation(len(images))[: start.images]
        keras_spm.transplant(
            model, images[chosen], max_images=start.images, seed=seed, verbose=False
        )
    seconds = time.process_time() - began if start.images else 0
    accuracies = fit(model, data, seed, data.steps[-1], data.steps)
    return {
        "CPU seconds of the start": f"{seconds:.0f}",
        **{f"after {step} steps": f"{value:.4f}" for step, value in accuracies.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares starts of Stepwise Patch Merging.")
    parser.add_argument("data_set", choices=("digits", "cifar10"))
    parser.add_argument("--data", type=pathlib.Path, help="folder of the folder cifar10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    data = read_data(options.data_set, options.data)
    starts = (
        *(Start("original"), Start("random", "spm"), Start("gate", "default+spm")),
        *(Start("transplant", "spm", count) for count in data.image_counts),
    )
    for seed in options.seeds:
        preset = trained_preset(options.data_set, data, options.data, seed)
        for start in starts:
            key = (options.data_set, keras.config.backend(), start.name, start.images, seed)
            row = dict(zip(KEYS, map(str, key), strict=True))
            if tuple(row.values()) not in compare.read_results(RESULTS, KEYS):
                row |= run(start, data, preset, seed)
                print(row, flush=True)
                compare.add_row(row, RESULTS, KEYS)


if __name__ == "__main__":
    main()
