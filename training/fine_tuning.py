"""Compares full fine-tuning, LoRA and the linear probe on handwritten digits.

    python training/fine_tuning.py            all runs, then fine_tuning.csv
    python training/fine_tuning.py --seeds 0  fewer

A backbone is trained on the digits 0 to 4 from random weights. Each recipe then trains it further
on all ten digits. Finished runs in `runs/fine_tuning` are not trained again. The site has the
table of fine_tuning.csv.
"""

import argparse
import csv
import json
import math
import pathlib

import keras
import numpy as np
from PIL import Image

import keras_spm
from keras_spm.cli import main as run_command

FOLDER = pathlib.Path(__file__).parents[1] / "runs" / "fine_tuning"
RESULTS = pathlib.Path(__file__).with_suffix(".csv")
SPLITS = {"train": "train", "val": "validation", "test": "test"}
RECIPES = ("classification_folder", "classification_lora", "classification_linear_probe")
# The digits 0 to 4 are files, as the data set in memory has all ten.
START = (
    *("preset=pvt_v2_b0", "load_weights=false", "layer_decay=1", "epochs=15"),
    *("image_size=32", "crop_pct=1", "crop_scale=0.7", "flip=0"),
)
# Without the keys that only files use.
DIGITS = (
    *("dataset=digits", "rotation=12", "zoom=0.1", "translation=0.08"),
    *("invalid=auto", "validation_share=0", "image_size=224", "crop_pct=1", "crop_scale=1"),
    *("flip=0", "randaugment_magnitude=0", "label_smoothing=0"),
    *("epochs=10", "batch_size=64"),
)


def write_photos() -> None:
    """Writes the digits 0 to 4 as PNG files, a folder for each split and class."""
    splits = keras_spm.data.load_dataset("digits")
    for folder, split in SPLITS.items():
        images, labels = getattr(splits, split)
        for index in np.flatnonzero(labels < 5):
            path = FOLDER / "photos" / folder / str(labels[index]) / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(path)


def train(recipe: str, name: str, *settings: str) -> pathlib.Path:
    """Trains by a recipe unless the run exists. Returns the run folder."""
    folder = FOLDER / f"{name}-{keras.config.backend()}"
    if not folder.exists():
        pairs = [part for setting in settings for part in ("--set", setting)]
        if run_command(["train", recipe, "--output", str(folder), *pairs]):
            raise SystemExit(f"{recipe} failed.")
    return folder


def trained_parameters(folder: pathlib.Path) -> int:
    """Returns the number of parameters that the best model of a run trains."""
    model = keras.saving.load_model(folder / "best.keras")
    return sum(math.prod(variable.shape) for variable in model.trainable_weights)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares kinds of fine-tuning on digits.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    write_photos()
    run = train("classification_folder", "start", f"data_folder={FOLDER / 'photos'}", *START)
    preset = run / "backbone"
    if not preset.exists():
        keras.saving.load_model(run / "best.keras").backbone.save_to_preset(preset)
    settings = (*DIGITS, f"preset={preset}")
    runs: dict[str, list[pathlib.Path]] = {recipe: [] for recipe in RECIPES}
    for seed in seeds:
        for recipe in RECIPES:
            runs[recipe].append(train(recipe, f"{recipe}-{seed}", *settings, f"seed={seed}"))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["recipe", "seed", "trained parameters", "test accuracy"])
        for recipe, folders in runs.items():
            parameters = trained_parameters(folders[0])
            for seed, folder in zip(seeds, folders, strict=True):
                result = json.loads((folder / "result.json").read_text())
                writer.writerow([recipe, seed, parameters, f"{result['test_accuracy']:.3f}"])


if __name__ == "__main__":
    main()
