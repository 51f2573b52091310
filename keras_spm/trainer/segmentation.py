"""Trains, selects, tests and documents a semantic segmenter."""

import csv
import functools

import keras
import numpy as np

from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.data import ImageBatching
from keras_spm.data import SegmentationAugmentation
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.transforms import to_pixels
from keras_spm.tasks import SemanticSegmenter
from keras_spm.trainer.dense import SHOWN
from keras_spm.trainer.dense import backbone_of
from keras_spm.trainer.dense import prepare
from keras_spm.trainer.dense import run
from keras_spm.trainer.dense_data import segmentation_data
from keras_spm.visualize import plot_segmentations


def prepare_segmenter(recipe):
    """Returns all that a `SegmentationRecipe` needs, as `Prepared`."""
    keras.utils.set_random_seed(recipe.seed)
    data = segmentation_data(recipe)
    model = _build(recipe, data.class_names)
    batches = repeated_batches(
        data.train, _augmentation(recipe), _collated, recipe.batch_size, recipe.seed
    )
    return prepare(recipe, model, batches, data)


def train_segmenter(recipe, folder, verbose):
    """Runs a recipe and leaves its run folder.

    The epoch that does best on the validation split is kept; the test split is read once,
    by the model loaded back from its file.

    Args:
        recipe: `SegmentationRecipe`.
        folder: `RunFolder`.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        The result, a dict: `test_mean_iou` and `test_pixel_accuracy`, both at the images'
        own sizes, `validation_mean_iou`, `best_epoch`, and `seconds` of training.
    """
    prepared = prepare_segmenter(recipe)
    return run(
        prepared,
        SegmentationEvaluation(prepared.data.validation),
        "mean_iou",
        functools.partial(_test, prepared.data.test),
        recipe,
        folder,
        verbose,
    )


def _build(recipe, class_names):
    return SemanticSegmenter(
        backbone_of(recipe),
        len(class_names),
        class_names,
        pyramid_channels=recipe.pyramid_channels,
        head_channels=recipe.head_channels,
        batching=ImageBatching(recipe.test_min_size, recipe.test_max_size, resize_to_divisor=True),
    )


def _augmentation(recipe):
    return SegmentationAugmentation(
        recipe.image_size,
        (recipe.test_max_size, recipe.test_min_size),
        (recipe.min_scale, recipe.max_scale),
        flip=recipe.flip,
        color_jitter=recipe.color_jitter,
    )


def _collated(examples):
    return tuple(
        np.stack([example[name] for example in examples]) for name in ("image", "segmentation_map")
    )


def _test(examples, model_path, folder):
    model = keras.saving.load_model(model_path)
    evaluation = SegmentationEvaluation(examples)
    metrics = evaluation.measure(model)
    with (folder / "iou_per_class.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "iou"])
        for name, value in zip(model.class_names, evaluation.per_class, strict=True):
            table.writerow([name, f"{value:.4f}"])
    shown = [examples[index] for index in range(min(SHOWN, len(examples)))]
    images = [to_pixels(example["image"]) for example in shown]
    plot_segmentations(
        images,
        [example["segmentation_map"] for example in shown],
        model.segment(images),
        model.class_names,
        folder / "predictions.png",
    )
    return {f"test_{name}": value for name, value in metrics.items()}
