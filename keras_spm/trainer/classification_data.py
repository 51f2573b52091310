"""Batches of image classification, from data on disk or in memory."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_spm.backend import replicas
from keras_spm.backend.placement import own_rows
from keras_spm.data import ImagePreprocessing
from keras_spm.data.classification_augmentation import ClassificationAugmentation, Mixing
from keras_spm.data.pipeline import EvaluationBatches, repeated_batches
from keras_spm.data.splits import DataSplits, read_labels
from keras_spm.tasks import ImageClassifier
from keras_spm.trainer.recipe import Recipe


class FilePipeline:
    """Batches of images on disk; labels are (batch, classes) float32.

    Args:
        recipe: `ClassificationRecipe`.
        data: examples of each split.
        model: classifier with `preprocessing`.

    Raises:
        ValueError: for balanced class weights of multi-label data or of a class without images.
    """

    def __init__(self, recipe: Recipe, data: DataSplits, model: ImageClassifier):
        self._recipe = recipe
        self._data = data
        self._model = model
        self._class_weights = None
        if recipe.class_weights == "balanced":
            if model.multi_label:
                raise ValueError(
                    "`class_weights` must be 'none' for multi-label data. "
                    "Received: class_weights='balanced'"
                )
            counts = class_counts(data)
            if missing := [data.class_names[index] for index in np.flatnonzero(counts == 0)]:
                raise ValueError(
                    "`class_weights='balanced'` needs training images of every class. "
                    f"Received: none of {missing}"
                )
            self._class_weights = (counts.sum() / len(counts) / counts).astype("float32")

    def loss(self) -> keras.losses.Loss:
        """Returns the loss."""
        losses = keras.losses
        multi_label = self._model.multi_label
        loss = losses.BinaryCrossentropy if multi_label else losses.CategoricalCrossentropy
        return loss(from_logits=True, label_smoothing=self._recipe.label_smoothing)

    def training_batches(self) -> Sequence:
        """Returns the augmented batches, see `repeated_batches`."""
        recipe, examples, model = self._recipe, self._data.train, self._model
        if not 1 <= recipe.batch_size <= len(examples):
            raise ValueError(
                f"`batch_size` must be from 1 to the number of examples, {len(examples)}. "
                f"Received: batch_size={recipe.batch_size}"
            )
        augmentation = ClassificationAugmentation(
            *(recipe.image_size, recipe.crop_scale, recipe.flip),
            *(recipe.randaugment_magnitude, recipe.random_erasing, model.mean, model.std),
        )

        def augment(example, generator):
            return {**example, "image": augmentation(example["image"], generator)}

        is_mixed = recipe.mixup or recipe.cutmix
        batches = repeated_batches(
            *(examples, augment, self._collate),
            seed=recipe.seed,
            repeats=recipe.repeated_augmentation,
            batch_transform=Mixing(recipe.mixup, recipe.cutmix) if is_mixed else None,
            **recipe.shard(),
        )
        return batches if self._class_weights is None else batches.map(self._add_weights)

    def validation_batches(self) -> EvaluationBatches:
        """Returns the batches of the validation split."""

        def preprocess(example):
            return {**example, "image": self._model.preprocessing(example["image"])}

        examples, batch_size = self._data.validation, self._recipe.batch_size
        if replicas.has_torch_processes():  # Each evaluates whole batches.
            batch_size //= replicas.current().processes
        return EvaluationBatches(examples, preprocess, self._collate, batch_size, own_rows)

    def _collate(self, examples):
        images = np.stack([example["image"] for example in examples])
        labels = np.stack([example["label"] for example in examples])
        if self._model.multi_label:
            return images, labels
        return images, (labels[:, None] == np.arange(self._model.num_classes)).astype("float32")

    def _add_weights(self, batch):
        # The weight of a mixed image is the mean weight of its classes.
        images, labels = batch
        return images, labels, labels @ self._class_weights


def class_counts(data: DataSplits) -> np.ndarray:
    """Returns (classes,) ints, the number of training images of each class."""
    labels = read_labels(data.train)
    if labels.ndim == 2:
        return labels.sum(axis=0).astype(int)
    return np.bincount(labels, minlength=len(data.class_names))


class ArrayExamples:
    """Arrays of images and labels as a sequence of examples.

    Args:
        images: (examples, height, width, 3).
        labels: (examples,).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._images = images
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self._images[index], "label": self.labels[index]}


class PreprocessedImages:
    """The images of examples as the classifier gets them.

    Args:
        examples: sequence.
        preprocessing: of the classifier, or None.
    """

    def __init__(self, examples: Sequence, preprocessing: ImagePreprocessing | None):
        self._examples = examples
        self._preprocessing = preprocessing or np.asarray

    def __getitem__(self, index):
        return self._preprocessing(self._examples[int(index)]["image"])
