"""Accuracy and file size of a trained model before and after quantization.

    python zoo/quantization.py runs/classification_digits-torch-seed0
    python zoo/quantization.py birds.keras --data photos --filters "^(?!head)"
    python zoo/quantization.py runs/classification_digits-torch-seed0 --format onnx
    python zoo/quantization.py pvt_v2_b1 --random

With `--format`, exported files are measured, in float32 and in static int8, which is calibrated
with the first images of the training split. With `--random`, only file sizes are measured, of a
classifier of 1,000 classes on a preset. The rows of the model in quantization.csv, which the site
shows, are replaced.
"""

import argparse
import csv
import math
import pathlib
import tempfile
from collections.abc import Callable

import keras
import numpy as np

import keras_spm
from keras_spm import trainer
from keras_spm.export import run_exported
from keras_spm.export.formats import FORMATS

RESULTS = pathlib.Path(__file__).with_suffix(".csv")
COLUMNS = ("model", "mode", "file of float32", "metrics")
CALIBRATION_IMAGES = 128
MODES = ("float32", "int8", "int8 kernels", "int4", "float8")
KERNELS = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)


def file_size(model: keras.Model) -> int:
    """Returns the bytes of the saved model, without the state of an optimizer."""
    optimizer, model.optimizer = model.optimizer, None
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        model.optimizer = optimizer
        return path.stat().st_size


def int8_share(model: keras.Model) -> float:
    """Returns the share of the parameters that are in int8."""
    sizes = [(each.dtype == "int8") * math.prod(each.shape) for each in model.weights]
    return sum(sizes) / model.count_params()


def measure(
    name: str, build: Callable[[], keras.Model], recipe: trainer.Recipe | None, filters: str | None
) -> None:
    """Prints a row for each mode, and writes the rows of the model."""
    rows, whole = [], None
    for mode in MODES:
        model = build()
        if mode != "float32":
            config = KERNELS if mode == "int8 kernels" else None
            model.quantize(mode.split()[0], config, filters=filters)
        metrics = {} if recipe is None else trainer.evaluate(model, recipe)
        text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        size = file_size(model)
        whole = whole or size
        rows.append(dict(zip(COLUMNS, (name, mode, f"{size / whole:.2f}", text), strict=True)))
        print(f"{mode}: {size / 1e6:.2f} MB, {size / whole:.2f} of float32. {text}", flush=True)
        if mode == "int8":
            print(f"{int8_share(model):.1%} of the parameters are in int8.")
    if filters is None:
        write(rows)


def measure_files(name: str, model: keras.Model, recipe: trainer.Recipe, format: str) -> None:
    """As `measure`, of the exported files of a classifier in their runtime.

    Args:
        name: of the model.
        model: classifier.
        recipe: whose data set is in memory.
        format: `"onnx"`, `"openvino"` or `"litert"`.
    """
    data = keras_spm.data.load_dataset(recipe.dataset)
    (train_images, _), (images, labels) = data.train, data.test
    images = images.astype("float32")  # As exported files take them.
    rows, expected, whole = [], None, None
    for mode, calibration in ((format, None), (f"{format}, int8", train_images)):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, f"model{FORMATS[format].suffix}")
            calibration = calibration if calibration is None else calibration[:CALIBRATION_IMAGES]
            model.export(path, format, verbose=False, calibration=calibration)
            size = sum(each.stat().st_size for each in pathlib.Path(folder).iterdir())
            (logits,) = run_exported.OPENERS[format](str(path))(images).values()
        expected = logits if expected is None else expected
        whole = whole or size
        classes = logits.argmax(-1)
        text = (
            f"accuracy {(classes == labels).mean():.4f}, "
            f"class of float32 {(classes == expected.argmax(-1)).mean():.4f}, "
            f"largest difference {np.abs(logits - expected).max() / np.abs(expected).max():.3f}"
        )
        rows.append(dict(zip(COLUMNS, (name, mode, f"{size / whole:.2f}", text), strict=True)))
        print(f"{mode}: {size / 1e6:.2f} MB, {size / whole:.2f} of float32. {text}", flush=True)
    write(rows)


def write(rows: list[dict[str, str]]) -> None:
    """Writes rows in place of those of the same model and mode, or after the others."""
    with RESULTS.open(newline="") as file:
        found = {(row["model"], row["mode"]): row for row in csv.DictReader(file)}
    found |= {(row["model"], row["mode"]): row for row in rows}
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(found.values(), key=lambda row: row["model"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures quantized models.")
    parser.add_argument("model", help="run folder, .keras file or preset")
    parser.add_argument("--data", help="folder of the data to evaluate on")
    parser.add_argument("--filters", help="regular expression of the layers to quantize")
    formats = [name for name, found in FORMATS.items() if found.has_int8]
    parser.add_argument("--format", choices=formats, help="exported files, of data in memory")
    parser.add_argument("--random", action="store_true", help="random weights: sizes only")
    options = parser.parse_args()
    if options.random:

        def build():
            preset = keras_spm.backbones.PyramidBackbone.from_preset
            return keras_spm.ImageClassifier(preset(options.model, load_weights=False), 1000)

        measure(options.model, build, None, options.filters)
        return
    model = trainer.load_task(options.model)
    recipe = trainer.find_recipe(model, options.model, data_folder=options.data)
    name = pathlib.Path(options.model).name
    if options.format:
        measure_files(name, model, recipe, options.format)
        return
    measure(name, lambda: trainer.load_task(options.model), recipe, options.filters)


if __name__ == "__main__":
    main()
