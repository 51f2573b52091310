"""Recipes of image classification."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones.merging import MERGINGS
from keras_spm.backend import parts, replicas
from keras_spm.data import ImagePreprocessing, load_dataset
from keras_spm.data.pipeline import training_batches
from keras_spm.data.readers import readers_of
from keras_spm.data.splits import (
    AUTO,
    SPLITS,
    DataSplits,
    read_labels,
    read_splits,
    read_test_split,
)
from keras_spm.optimizers import AdamW, LayerwiseAdamW, WarmupCosine
from keras_spm.registry import lookup
from keras_spm.tasks import ImageClassifier
from keras_spm.trainer.classification_data import (
    ArrayExamples,
    FilePipeline,
    PreprocessedImages,
    class_counts,
)
from keras_spm.trainer.recipe import (
    ABOVE_ZERO_TO_ONE,
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SCHEDULES,
    Range,
    Recipe,
    Setup,
)
from keras_spm.trainer.teachers import (
    distill,
    prepare_transplant,
    without_warning_of_random_mergings,
)
from keras_spm.visualize import plot_confusion_matrix

_IN_MEMORY = ("digits",)
_MAX_CONFUSION_CLASSES = 30
_IN_MEMORY_KEYS = ("rotation", "zoom", "translation")
_FILE_KEYS = (
    *(
        "data_folder",
        "invalid",
        "allow_outside",
        "verify_images",
        "validation_share",
        "class_weights",
    ),
    *("image_size", "crop_pct", "crop_scale", "flip", "randaugment_magnitude"),
    *("random_erasing", "mixup", "cutmix", "label_smoothing", "repeated_augmentation"),
)
# {schedule: function of the steps per epoch that returns arguments of `WarmupCosine`}
_COSINES = {
    "cosine_by_epoch": lambda steps: {"update_every": steps},
    "cosine_by_step": lambda steps: {"warmup_prefix": True},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe):
    """Hyperparameters of an `ImageClassifier`.

    An epoch has as many examples as the training split. Data sets are `"digits"`, in memory,
    with the augmentation keys `rotation`, `zoom` and `translation`; and data on disk, with all
    other augmentation keys:

    - `"folder"`: `data_folder` has one folder per class, or folders `train`, `val` and
      optionally `test` of such folders.
    - `"csv"`: `data_folder` is a CSV file, see `keras_spm.data.CsvDataset`, optionally with
      the splits `train`, `val` and `test`.
    - `"tfds"` and `"imagenet2012"`: `data_folder` is a prepared data set of TensorFlow
      Datasets, such as `…/cifar10/3.0.2`.

    Attributes:
        load_weights: whether the backbone starts from the preset's published weights.
        merging: patch merging of the backbone, as in its constructor; empty for the preset's own.
        transplant_images: number of training images from which mergings without published weights
            learn to replace those of the published network before the training, see
            `keras_spm.transplant`; 0 for none.
        transplant_steps: steps of each of its two phases.
        distill_from: preset of a classifier with the same classes, whose outputs the model learns
            beside the labels, see `ImageClassifier.distill`; empty for none.
        distill_weight: share of the teacher in the loss of the logits.
        distill_temperature: temperature of the logits.
        distill_maps_weight: weight of the loss of the maps.
        frozen_stages: number of frozen stages of the backbone; 4 for a linear probe.
        lora_rank: rank of LoRA, see `enable_lora` of the model; 0 for none.
        lora_alpha: scale of LoRA; 0 for `lora_rank`.
        verify_images: whether all files are decoded before the training to find invalid ones.
        class_weights: `"none"`, or `"balanced"` for weights inversely proportional to the
            number of images of a class.
        image_size: height and width of training and test images, pixels.
        crop_pct: of test images, see `keras_spm.data.ImagePreprocessing`.
        crop_scale: smallest area of the random crop, as a share of the image.
        flip: probability of a horizontal flip.
        randaugment_magnitude: from 0 to 10; 0 for no RandAugment.
        random_erasing: probability of random erasing.
        mixup, cutmix: parameters of the beta distributions; 0 for none.
        label_smoothing: share of a label that is distributed over all classes.
        repeated_augmentation: how often each image is used in a row, with new augmentation.
        rotation: largest angle, degrees.
        zoom: largest relative change of the size.
        translation: largest shift, as a share of the side.
        schedule: learning rate after the warmup. `"cosine"` decays to 0 in the remaining
            steps; `"cosine_by_epoch"` and `"cosine_by_step"` are the settings of `WarmupCosine`
            for PVT and Swin.
        warmup_epochs: epochs of linear warmup.
        warmup_learning_rate, min_learning_rate: first and last learning rate.
        epsilon: of AdamW.
        layer_decay: see `LayerwiseAdamW`; 1 for none.
    """

    load_weights: bool = False
    merging: str = ""
    transplant_images: int = 0
    transplant_steps: int = 100
    distill_from: str = ""
    distill_weight: float = 0.5
    distill_temperature: float = 1.0
    distill_maps_weight: float = 0.0
    frozen_stages: int = 0
    lora_rank: int = 0
    lora_alpha: float = 0.0
    verify_images: bool = True
    class_weights: str = "none"
    image_size: int = 224
    crop_pct: float = 1.0
    crop_scale: float = 1.0
    flip: float = 0.0
    randaugment_magnitude: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    repeated_augmentation: int = 1
    rotation: float = 0.0
    zoom: float = 0.0
    translation: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: int
    warmup_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    epsilon: float = 1e-7
    layer_decay: float = 1.0

    kind = "classification"
    task = ImageClassifier
    default = "classification_folder"
    ranges: ClassVar[dict[str, Range]] = {
        **Recipe.ranges,
        **dict.fromkeys(("flip", "random_erasing", "translation", "distill_weight"), PROBABILITY),
        **dict.fromkeys(("label_smoothing", "zoom"), BELOW_ONE),
        **dict.fromkeys(("crop_pct", "crop_scale", "layer_decay"), ABOVE_ZERO_TO_ONE),
        **dict.fromkeys(("mixup", "cutmix", "lora_alpha"), NOT_NEGATIVE),
        **dict.fromkeys(("warmup_learning_rate", "min_learning_rate"), NOT_NEGATIVE),
        **dict.fromkeys(("image_size", "repeated_augmentation"), COUNT),
        **dict.fromkeys(("warmup_epochs", "lora_rank", "transplant_images"), COUNT_OR_ZERO),
        "transplant_steps": COUNT,
        **dict.fromkeys(("epsilon", "distill_temperature"), POSITIVE),
        "distill_maps_weight": NOT_NEGATIVE,
        "rotation": Range(0, 180),
        "randaugment_magnitude": Range(0, 10),
        "frozen_stages": Range(0, 4),
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **Recipe.choices,
        "class_weights": ("none", "balanced"),
        "merging": ("", *MERGINGS),
        "schedule": ("cosine", *_COSINES),
    }

    def setup(self) -> Setup:
        keras.utils.set_random_seed(self.seed)
        self._check_dataset()
        data = self.splits()
        adapted, notes = self._adapted(len(data.train))
        return dataclasses.replace(adapted._setup(data), notes=notes)

    def _adapted(self, images):
        """Returns (recipe, notes) for a number of training images."""
        changes, notes = {}, []
        if self.batch_size > images:
            changes["batch_size"] = size = images - images % replicas.count()
            notes.append(f"batch_size={size} instead of {self.batch_size}: all training images")
        if self.warmup_epochs >= self.epochs:
            changes["warmup_epochs"] = self.epochs - 1
            notes.append(
                f"warmup_epochs={self.epochs - 1} instead of {self.warmup_epochs}: there are only "
                f"{self.epochs} epochs"
            )
        return dataclasses.replace(self, **changes), tuple(notes)

    def _setup(self, data):
        in_memory = self.dataset in _IN_MEMORY
        multi_label = getattr(data.train, "multi_label", False)
        preprocessing = None if in_memory else self.preprocessing()
        model = self.model(data.class_names, preprocessing, multi_label)
        if in_memory:
            splits = load_dataset(self.dataset)
            batches, steps = training_batches(
                *(splits.train, self.batch_size, self.epochs, self.seed),
                *(self.rotation, self.zoom, self.translation),
            )
            batches = batches.map(parts.own_part)
            loss, validation, monitor = "auto", splits.validation, ("val_loss", "min")
        else:
            pipeline = FilePipeline(self, data, model)
            batches, steps = pipeline.training_batches(), len(data.train) // self.batch_size
            loss, validation = pipeline.loss(), pipeline.validation_batches()
            monitor = ("val_average_precision" if multi_label else "val_accuracy", "max")
        model.compile(optimizer=self._optimizer(model, steps), loss=loss)
        distill(self, model)
        # Images in memory have the size of the training; files and examples are preprocessed.
        images = splits.train.images if in_memory else data.train
        prepare = prepare_transplant(self, model, images)
        return Setup(model, batches, steps, data, validation, monitor, prepare=prepare)

    def splits(self) -> DataSplits:
        """Reads all splits of the data set."""
        if self.dataset in _IN_MEMORY:
            splits = load_dataset(self.dataset)
            examples = (ArrayExamples(*getattr(splits, split)) for split in SPLITS)
            return DataSplits(*examples, splits.class_names, self.dataset)
        data = read_splits(self.kind, self.dataset, self.data_folder, **self.reader_arguments())
        if hasattr(data.train, "labels"):  # Known without reading the images.
            counts = zip(data.class_names, class_counts(data), strict=True)
            missing = [name for name, count in counts if not count]
            if missing:
                raise ValueError(
                    f"{self.data_folder} must have training images of every class. "
                    f"Received: none of {missing}"
                )
        return data

    def test_examples(self) -> tuple[Sequence, list[str]]:
        if self.dataset in _IN_MEMORY:
            splits = load_dataset(self.dataset)
            return ArrayExamples(*splits.test), splits.class_names
        arguments = self.reader_arguments()
        return read_test_split(self.kind, self.dataset, self.data_folder, **arguments)

    def evaluate(
        self, model: keras.Model, examples: Sequence, class_names: list[str] | None
    ) -> dict[str, float]:
        if model.preprocessing is None and self.dataset not in _IN_MEMORY:
            model.preprocessing = self.preprocessing()
        return super().evaluate(model, examples, class_names)

    def draw(self, model: keras.Model, examples: Sequence, folder: pathlib.Path) -> None:
        """Draws `predictions.png`, and `confusion_matrix.png` for few classes."""
        super().draw(model, examples, folder)
        if model.multi_label or model.num_classes > _MAX_CONFUSION_CLASSES:
            return
        images = PreprocessedImages(examples, model.preprocessing)
        labels = read_labels(examples)
        probabilities = model.predict_images([images[index] for index in range(len(examples))])
        predictions = np.argmax(probabilities, axis=-1)
        path = folder / "confusion_matrix.png"
        plot_confusion_matrix(labels, predictions, images, model.class_names, path)

    def model(
        self,
        class_names: list[str],
        preprocessing: ImagePreprocessing | None,
        multi_label: bool = False,
    ) -> ImageClassifier:
        """Builds the classifier."""
        merging = {"merging": self.merging} if self.merging else {}
        with without_warning_of_random_mergings(self):
            backbone = PyramidBackbone.from_preset(
                self.preset,
                load_weights=self.load_weights,
                drop_path_rate=self.drop_path_rate,
                image_shape=self.image_shape,
                dtype=self.dtype_policy,
                gradient_checkpointing=self.gradient_checkpointing,
                **merging,
            )
        model = ImageClassifier(
            backbone,
            len(class_names),
            class_names,
            preprocessing=preprocessing,
            multi_label=multi_label,
        )
        backbone.freeze(self.frozen_stages)
        if self.lora_rank:
            model.enable_lora(self.lora_rank, self.lora_alpha or None)
        return model

    def preprocessing(self) -> ImagePreprocessing:
        """Returns the preprocessing of test images."""
        return ImagePreprocessing((self.image_size, self.image_size), self.crop_pct)

    def learning_rate_schedule(
        self, steps_per_epoch: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns the learning-rate schedule."""
        steps, warmup = self.epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch
        if self.schedule == "cosine":
            return SCHEDULES["cosine"](self.learning_rate, steps, warmup)
        return WarmupCosine(
            self.learning_rate,
            steps,
            warmup,
            self.warmup_learning_rate,
            self.min_learning_rate,
            **_COSINES[self.schedule](steps_per_epoch),
        )

    def _optimizer(self, model, steps_per_epoch):
        arguments = {**self.optimizer_arguments(), "epsilon": self.epsilon}
        schedule = self.learning_rate_schedule(steps_per_epoch)
        if self.layer_decay < 1:
            backbone = model.backbone
            return LayerwiseAdamW.from_backbone(backbone, schedule, self.layer_decay, **arguments)
        return AdamW(schedule, **arguments)

    def reader_arguments(self) -> dict[str, Any]:
        return {**super().reader_arguments(), "verify": self.verify_images}

    def _check_dataset(self):
        """Checks that the data set is known, and that no key is set that it does not use."""
        known = dict.fromkeys((*_IN_MEMORY, AUTO, *readers_of(self.kind)))
        lookup("data set", self.dataset, known)
        unused = _FILE_KEYS if self.dataset in _IN_MEMORY else _IN_MEMORY_KEYS
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in unused and value != field.default:
                raise ValueError(
                    f"`{field.name}` is not used by the data set {self.dataset!r} and must be "
                    f"left out. Received: {field.name}={value!r}"
                )
