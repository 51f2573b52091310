"""Trains, selects, tests and documents an object detector."""

import csv
import functools

import keras

from keras_spm.callbacks import CocoEvaluation
from keras_spm.data import DetectionBatching
from keras_spm.data import ImageBatching
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.transforms import horizontal_flip
from keras_spm.data.transforms import to_pixels
from keras_spm.tasks import ObjectDetector
from keras_spm.trainer.dense import SHOWN
from keras_spm.trainer.dense import backbone_of
from keras_spm.trainer.dense import prepare
from keras_spm.trainer.dense import run
from keras_spm.trainer.dense_data import detection_data
from keras_spm.visualize import plot_detections

_SHOWN_SCORE = 0.3


def prepare_detector(recipe):
    """Returns all that a `DetectionRecipe` needs, as `Prepared`."""
    keras.utils.set_random_seed(recipe.seed)
    data = detection_data(recipe)
    model = _build(recipe, data.class_names)
    batches = repeated_batches(
        data.train,
        _augmentation(recipe),
        DetectionBatching(model.batching),
        recipe.batch_size,
        recipe.seed,
    )
    return prepare(recipe, model, batches, data)


def train_detector(recipe, folder, verbose):
    """Runs a recipe and leaves its run folder.

    The epoch that does best on the validation split is kept; the test split is read once,
    by the model loaded back from its file.

    Args:
        recipe: `DetectionRecipe`.
        folder: `RunFolder`.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        The result, a dict: `test_AP`, `test_AP50` and the other numbers of COCO,
        `validation_AP`, `best_epoch`, and `seconds` of training.
    """
    prepared = prepare_detector(recipe)
    return run(
        prepared,
        CocoEvaluation(prepared.data.validation),
        "AP",
        functools.partial(_test, prepared.data.test),
        recipe,
        folder,
        verbose,
    )


def _build(recipe, class_names):
    backbone = backbone_of(recipe)
    model = ObjectDetector(
        backbone,
        len(class_names),
        class_names,
        pyramid_channels=recipe.pyramid_channels,
        head_channels=recipe.head_channels,
        num_convs=recipe.num_convs,
        anchor_scale=recipe.anchor_scale,
        box_loss=recipe.box_loss,
        batching=ImageBatching(recipe.min_size, recipe.max_size),
    )
    backbone.freeze(recipe.frozen_stages)
    return model


def _augmentation(recipe):
    def augmented(example, generator):
        if generator.random() < recipe.flip:
            return horizontal_flip(example)
        return {**example, "image": to_pixels(example["image"])}

    return augmented


def _test(examples, model_path, folder):
    model = keras.saving.load_model(model_path)
    metrics = CocoEvaluation(examples, class_names=model.class_names).measure(model)
    with (folder / "average_precision.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["metric", "value"])
        table.writerows([name, f"{value:.4f}"] for name, value in metrics.items())
    shown = [examples[index] for index in range(min(SHOWN, len(examples)))]
    images = [to_pixels(example["image"]) for example in shown]
    found = [_likely(each) for each in model.detect(images)]
    plot_detections(images, shown, found, model.class_names, folder / "predictions.png")
    return {f"test_{name}": value for name, value in metrics.items() if "/" not in name}


def _likely(detections):
    likely = detections["scores"] >= _SHOWN_SCORE
    return {name: values[likely] for name, values in detections.items()}
