"""Recipes of semantic segmentation."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np

from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.data import ImageBatching, SegmentationAugmentation
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.data.pipeline import repeated_batches
from keras_spm.heads import SemanticFPN
from keras_spm.tasks import SemanticSegmenter
from keras_spm.trainer.dense import DenseRecipe
from keras_spm.trainer.recipe import COUNT, POSITIVE, Range, Setup


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(DenseRecipe):
    """Hyperparameters of a `SemanticSegmenter`.

    Attributes:
        image_size: height and width of the training crops, pixels.
        test_min_size, test_max_size: limits of the shorter and the longer side of test images,
            which are resized with their aspect ratio kept, and then to a multiple of 32.
        min_scale, max_scale: limits of the random scale before the crop, relative to the test
            size; 1 and 1 for none.
        color_jitter: whether brightness, contrast, saturation and hue are changed at random.
    """

    image_size: int
    test_min_size: int
    test_max_size: int
    min_scale: float
    max_scale: float
    color_jitter: bool

    kind = "segmentation"
    task = SemanticSegmenter
    default = "segmentation_ade20k"
    scene_size = "image_size"
    scene_class_names: ClassVar[list[str]] = CLASS_NAMES
    ranges: ClassVar[dict[str, Range]] = {
        **DenseRecipe.ranges,
        **dict.fromkeys(("image_size", "test_min_size", "test_max_size"), COUNT),
        **dict.fromkeys(("min_scale", "max_scale"), POSITIVE),
    }

    def __post_init__(self):
        super().__post_init__()
        self.check_order("test_min_size", "test_max_size")
        self.check_order("min_scale", "max_scale")

    def setup(self) -> Setup:
        keras.utils.set_random_seed(self.seed)
        data = self.splits()
        model = SemanticSegmenter(
            self.backbone(),
            len(data.class_names),
            SemanticFPN(pyramid_channels=self.pyramid_channels, channels=self.head_channels),
            data.class_names,
            batching=ImageBatching(self.test_min_size, self.test_max_size, resize_to_divisor=True),
        )
        augmentation = SegmentationAugmentation(
            self.image_size,
            (self.test_max_size, self.test_min_size),
            (self.min_scale, self.max_scale),
            flip=self.flip,
            color_jitter=self.color_jitter,
        )
        batches = repeated_batches(data.train, augmentation, _stack, self.batch_size, self.seed)
        evaluation = SegmentationEvaluation(data.validation)
        return self.compiled_setup(model, batches, data, evaluation, "mean_iou")


def _stack(examples):
    names = ("image", "segmentation_map")
    return tuple(np.stack([example[name] for example in examples]) for name in names)
