"""What a classifier trains, is validated and is tested on: data in memory, or files."""

import dataclasses

import keras
import numpy as np

from keras_spm.data import ImagePreprocessing
from keras_spm.data import load_dataset
from keras_spm.data.classification_augmentation import ClassificationAugmentation
from keras_spm.data.classification_augmentation import Mixing
from keras_spm.data.pipeline import EvaluationBatches
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.pipeline import training_batches
from keras_spm.data.readers import readers_of
from keras_spm.registry import lookup
from keras_spm.trainer.classification_data import classification_data
from keras_spm.trainer.classification_data import classification_test
from keras_spm.trainer.data_splits import SPLITS


class _Memory:
    """Small images in memory, with integer labels.

    Attributes:
        class_names: list of str.
        multi_label: bool.
        preprocessing: what the classifier does with images first, or `None`.
        monitor: (metric, `"min"` or `"max"`) by which the best epoch is known.
        loss: for `compile`.
        counts: {split: examples in it}.
        unused: keys of a recipe that mean nothing to it.
    """

    multi_label = False
    preprocessing = None
    monitor = ("val_loss", "min")
    loss = "auto"
    unused = (
        *("data_folder", "invalid", "verify_images", "validation_share", "class_weights"),
        *("image_size", "crop_pct", "crop_scale", "flip", "magnitude", "erasing"),
        *("mixup", "cutmix", "label_smoothing", "repeats"),
    )

    def __init__(self, recipe):
        self._recipe = recipe
        self._splits = splits = load_dataset(recipe.dataset)
        self.class_names = splits.class_names
        self.validation = splits.validation
        self.counts = {split: len(getattr(splits, split).labels) for split in SPLITS}

    def training(self, model):
        """Returns (batches for the whole training, how many an epoch has)."""
        recipe = self._recipe
        return training_batches(
            self._splits.train,
            recipe.batch_size,
            recipe.epochs,
            recipe.seed,
            recipe.rotation,
            recipe.zoom,
            recipe.translation,
        )

    def test(self, model):
        """Returns (labels, the model's outputs, the images) of the test split."""
        images, labels = self._splits.test
        return labels, model.predict(images, verbose=0), images


class _Files:
    """Images that are read when they are needed; labels are (batch, classes) float32."""

    unused = ("rotation", "zoom", "translation")

    def __init__(self, recipe):
        self._recipe = recipe
        self._data = classification_data(recipe)
        self.class_names = self._data.class_names
        self.multi_label = self._data.multi_label
        self.counts = self._data.sizes()
        self.preprocessing = _preprocessing(recipe)
        metric = "average_precision" if self.multi_label else "accuracy"
        self.monitor = (f"val_{metric}", "max")
        self._class_weights = self._balanced() if recipe.class_weights == "balanced" else None

    @property
    def loss(self):
        kind = (
            keras.losses.BinaryCrossentropy
            if self.multi_label
            else keras.losses.CategoricalCrossentropy
        )
        return kind(from_logits=True, label_smoothing=self._recipe.label_smoothing)

    def training(self, model):
        recipe, examples = self._recipe, self._data.train
        if not 1 <= recipe.batch_size <= len(examples):
            raise ValueError(
                f"`batch_size` must be from 1 to the number of examples, {len(examples)}. "
                f"Received: batch_size={recipe.batch_size}"
            )
        augmentation = ClassificationAugmentation(
            recipe.image_size,
            recipe.crop_scale,
            recipe.flip,
            recipe.randaugment_magnitude,
            recipe.random_erasing,
            model.mean,
            model.std,
        )

        def prepared(example, generator):
            return {**example, "image": augmentation(example["image"], generator)}

        mixes = recipe.mixup or recipe.cutmix
        batches = repeated_batches(
            examples,
            prepared,
            self._collated,
            recipe.batch_size,
            recipe.seed,
            recipe.repeated_augmentation,
            Mixing(recipe.mixup, recipe.cutmix) if mixes else None,
        )
        if self._class_weights is not None:
            batches = batches.map(self._weighted)
        return batches, len(examples) // recipe.batch_size

    @property
    def validation(self):
        return self._evaluated(self._data.validation, self._collated)

    def test(self, model):
        examples = self._data.test
        labels, outputs = _outputs(model, examples, self.preprocessing, self._recipe.batch_size)
        return labels, outputs, _Pictures(examples, self.preprocessing)

    def _evaluated(self, examples, collated):
        def prepared(example):
            return {**example, "image": self.preprocessing(example["image"])}

        return EvaluationBatches(examples, prepared, collated, self._recipe.batch_size)

    def _collated(self, examples):
        images = np.stack([example["image"] for example in examples])
        labels = np.stack([example["label"] for example in examples])
        return images, labels if self.multi_label else self._one_hot(labels)

    def _one_hot(self, labels):
        return (labels[:, None] == np.arange(len(self.class_names))).astype("float32")

    def _balanced(self):
        if self.multi_label:
            raise ValueError(
                "`class_weights` must be 'none' where an image may have several classes. "
                "Received: class_weights='balanced'"
            )
        counts = self._data.counts()
        return (counts.sum() / len(counts) / counts).astype("float32")

    def _weighted(self, batch):
        # A mixed image weighs as its classes do.
        images, labels = batch
        return images, labels, labels @ self._class_weights


class _Pictures:
    """The images of examples by their place, as a classifier gets them."""

    def __init__(self, examples, preprocessing):
        self._examples = examples
        self._preprocessing = preprocessing

    def __getitem__(self, index):
        return self._preprocessing(self._examples[int(index)]["image"])


def _sources():
    return {"digits": _Memory, **dict.fromkeys(readers_of("classification"), _Files)}


def classification_source(recipe):
    """Returns the source of a `ClassificationRecipe`; see `_Memory` for what it has.

    Raises:
        FileNotFoundError, ValueError: where the data cannot be trained on.
        ValueError: for a key that means nothing to the data set.
    """
    source = lookup("data set", recipe.dataset, _sources())
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in source.unused and value != field.default:
            raise ValueError(
                f"`{field.name}` must be left out for the data set {recipe.dataset!r}, which "
                f"does not use it. Received: {field.name}={value!r}"
            )
    return source(recipe)


def tested_outputs(model, recipe):
    """Returns what any classifier makes of the images that a recipe tests on.

    Args:
        model: `ImageClassifier`; its `preprocessing` counts, and the recipe's only where it
            has none.
        recipe: `ClassificationRecipe`.

    Returns:
        (labels, outputs, class names): (count,) ints in the order of the names, or where
        images have several classes (count, classes) of 0 and 1; the model's outputs.

    Raises:
        FileNotFoundError, ValueError: where the data cannot be read, and where they have
            several classes an image and the model one, or the other way round.
    """
    if lookup("data set", recipe.dataset, _sources()) is _Memory:
        splits = load_dataset(recipe.dataset)
        images, labels = splits.test
        return labels, model.predict(images, verbose=0), splits.class_names
    examples, class_names = classification_test(recipe)
    if examples.multi_label != model.multi_label:
        raise ValueError(
            "The data and the model must both have one class an image, or several. "
            f"Received: data with multi_label={examples.multi_label}, a model with "
            f"multi_label={model.multi_label}"
        )
    preprocessing = model.preprocessing or _preprocessing(recipe)
    return *_outputs(model, examples, preprocessing, recipe.batch_size), class_names


def _preprocessing(recipe):
    return ImagePreprocessing((recipe.image_size, recipe.image_size), recipe.crop_pct)


def _outputs(model, examples, preprocessing, batch_size):
    """(labels, outputs) of all examples."""
    images = EvaluationBatches(
        examples, lambda example: preprocessing(example["image"]), np.stack, batch_size
    )
    labels = [examples[index]["label"] for index in range(len(examples))]
    return np.stack(labels), model.predict(images, verbose=0)
