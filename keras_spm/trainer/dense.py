"""Recipes of dense tasks: what detection and segmentation share."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import keras

from keras_spm.arguments import check_integer
from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones.merging import MERGINGS
from keras_spm.data import DigitScenes
from keras_spm.data.splits import SPLITS, DataSplits, read_splits, read_test_split
from keras_spm.optimizers import AdamW
from keras_spm.trainer.recipe import (
    COUNT,
    COUNT_OR_ZERO,
    PROBABILITY,
    SCHEDULES,
    Range,
    Recipe,
    Setup,
)

_SCENES = "digit_scenes"
VALIDATION_SCENES, TEST_SCENES = 64, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseRecipe(Recipe):
    """Hyperparameters that all dense tasks have.

    Data sets are `"digit_scenes"`, composed in memory, and those on disk in a registered format.

    Attributes:
        load_weights: whether the backbone starts from the preset's published weights.
        merging: patch merging of the backbone, as in its constructor.
        steps_per_epoch: steps, for which the training split is repeated as often as needed; 0 for
            one pass over it.
        schedule: learning rate after the warmup: `"cosine"`, `"polynomial"` (power 0.9) or
            `"linear"`, all down to 0, or `"steps"`, divided by 10 after 2/3 and after 11/12 of
            the steps.
        warmup_steps: steps of linear warmup.
        size_divisor: height and width of test images, and of training images of a detector, are
            padded to multiples of it. JAX compiles once for each size: a large divisor leaves few.
        pyramid_channels: channels of the feature pyramid.
        head_channels: channels of the head's convolutions.
        flip: probability of a horizontal flip.
    """

    load_weights: bool
    merging: str
    steps_per_epoch: int
    schedule: str
    warmup_steps: int
    pyramid_channels: int
    head_channels: int
    flip: float
    size_divisor: int = 32

    scene_size: ClassVar[str]  # Key with the size of digit scenes.
    scene_masks: ClassVar[bool] = False  # Whether digit scenes have masks of objects.
    scene_class_names: ClassVar[list[str]]
    ranges: ClassVar[dict[str, Range]] = {
        **Recipe.ranges,
        **dict.fromkeys(("pyramid_channels", "head_channels", "size_divisor"), COUNT),
        **dict.fromkeys(("steps_per_epoch", "warmup_steps"), COUNT_OR_ZERO),
        "flip": PROBABILITY,
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **Recipe.choices,
        "merging": tuple(MERGINGS),
        "schedule": tuple(SCHEDULES),
    }

    def check_order(self, smaller: str, larger: str) -> None:
        """Raises a `ValueError` if the value of the first key exceeds that of the second."""
        low, high = getattr(self, smaller), getattr(self, larger)
        if low > high:
            raise ValueError(
                f"`{smaller}` must be at most `{larger}`. "
                f"Received: {smaller}={low}, {larger}={high}"
            )

    def setup(self) -> Setup:
        keras.utils.set_random_seed(self.seed)
        data = self.splits()
        recipe, notes = self.adapted(data)
        return dataclasses.replace(recipe.build(data), notes=notes)

    def build(self, data: DataSplits) -> Setup:
        """Builds and compiles the model and the batches."""
        raise NotImplementedError(f"{type(self).__name__} must implement `build`.")

    def adapted(self, data: DataSplits) -> tuple[Self, tuple[str, ...]]:
        """Returns (recipe, notes) for data: the number of steps, and a warmup that fits."""
        changes, notes = {}, []
        if not self.steps_per_epoch:
            changes["steps_per_epoch"] = -(-len(data.train) // self.batch_size)
        steps = self.epochs * changes.get("steps_per_epoch", self.steps_per_epoch)
        if self.warmup_steps and self.warmup_steps > steps // 2:
            changes["warmup_steps"] = steps // 10
            notes.append(
                f"warmup_steps={steps // 10} instead of {self.warmup_steps}: there are only "
                f"{steps} steps"
            )
        return dataclasses.replace(self, **changes), tuple(notes)

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return self.epochs * self.steps_per_epoch

    def learning_rate_schedule(self) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns the learning-rate schedule."""
        return SCHEDULES[self.schedule](self.learning_rate, self.steps, self.warmup_steps)

    def splits(self) -> DataSplits:
        """Reads all splits of the data set."""
        if self.dataset == _SCENES:
            check_integer("steps_per_epoch", self.steps_per_epoch)  # Scenes have no number.
            return DataSplits(*map(self._scenes, SPLITS), self.scene_class_names, _SCENES)
        return read_splits(self.kind, self.dataset, self.data_folder, **self.reader_arguments())

    def test_examples(self) -> tuple[Sequence, list[str]]:
        if self.dataset == _SCENES:
            return self._scenes("test"), self.scene_class_names
        arguments = self.reader_arguments()
        return read_test_split(self.kind, self.dataset, self.data_folder, **arguments)

    def _scenes(self, split):
        # Each scene is used once in a training.
        counts = (self.steps * self.batch_size, VALIDATION_SCENES, TEST_SCENES)
        count = dict(zip(SPLITS, counts, strict=True))[split]
        return DigitScenes(split, count, getattr(self, self.scene_size), self.scene_masks)

    def family_arguments(self) -> dict[str, Any]:
        """Returns constructor arguments that not every family of backbones has."""
        return {}

    def backbone(self) -> PyramidBackbone:
        """Builds the backbone."""
        return PyramidBackbone.from_preset(
            self.preset,
            load_weights=self.load_weights,
            drop_path_rate=self.drop_path_rate,
            merging=self.merging,
            image_shape=self.image_shape,
            dtype=self.dtype_policy,
            gradient_checkpointing=self.gradient_checkpointing,
            **self.family_arguments(),
        )

    def compiled_setup(
        self,
        model: keras.Model,
        batches: Sequence,
        data: DataSplits,
        evaluation: keras.callbacks.Callback,
        metric: str,
    ) -> Setup:
        """Compiles the model and returns the setup.

        Args:
            model: task.
            batches: sequence of all batches.
            data: examples of each split.
            evaluation: callback that measures the validation split.
            metric: metric of the callback that selects the best epoch, the highest.
        """
        schedule = self.learning_rate_schedule()
        model.compile(optimizer=AdamW(schedule, **self.optimizer_arguments()))
        return Setup(
            model,
            batches,
            self.steps_per_epoch,
            data,
            monitor=(f"val_{metric}", "max"),
            callbacks=(evaluation,),
        )
