"""Recipes of object detection."""

import dataclasses
from typing import ClassVar

from keras_spm.callbacks import CocoEvaluation
from keras_spm.data import DetectionBatching, ImageBatching
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.splits import DataSplits
from keras_spm.data.transforms import horizontal_flip, to_pixels
from keras_spm.heads import RetinaNet
from keras_spm.heads.retinanet import BOX_LOSSES
from keras_spm.tasks import ObjectDetector
from keras_spm.trainer.dense import DenseRecipe
from keras_spm.trainer.recipe import COUNT, COUNT_OR_ZERO, POSITIVE, Range, Setup

_MAX_OBJECTS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionRecipe(DenseRecipe):
    """Hyperparameters of an `ObjectDetector`.

    Attributes:
        min_size: length of the shorter side of images, pixels. The aspect ratio is kept.
        max_size: limit of the longer side.
        num_convs: convolutions in each tower of the head.
        anchor_scale: side of the smallest anchor, in strides.
        box_loss: as in `ObjectDetector`.
        frozen_stages: number of frozen stages of the backbone.
        max_objects: largest number of objects in a training image; 0 for that of the data.
        max_detections: largest number of objects that are detected in an image.
    """

    min_size: int
    max_size: int
    num_convs: int
    anchor_scale: float
    box_loss: str
    frozen_stages: int
    max_objects: int = 0
    max_detections: int = 100

    kind = "detection"
    task = ObjectDetector
    default = "detection_folder"
    scene_size = "min_size"
    scene_class_names: ClassVar[list[str]] = CLASS_NAMES[1:]
    ranges: ClassVar[dict[str, Range]] = {
        **DenseRecipe.ranges,
        **dict.fromkeys(("min_size", "max_size", "max_detections"), COUNT),
        **dict.fromkeys(("max_objects", "num_convs"), COUNT_OR_ZERO),
        "anchor_scale": POSITIVE,
        "frozen_stages": Range(0, 4),
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **DenseRecipe.choices,
        "box_loss": tuple(BOX_LOSSES),
    }

    def __post_init__(self):
        super().__post_init__()
        self.check_order("min_size", "max_size")

    def build(self, data: DataSplits) -> Setup:
        backbone = self.backbone()
        model = ObjectDetector(
            backbone,
            len(data.class_names),
            RetinaNet(
                pyramid_channels=self.pyramid_channels,
                channels=self.head_channels,
                num_convs=self.num_convs,
                anchor_scale=self.anchor_scale,
                box_loss=self.box_loss,
                max_detections=self.max_detections,
            ),
            data.class_names,
            batching=ImageBatching(self.min_size, self.max_size, self.size_divisor),
        )
        backbone.freeze(self.frozen_stages)
        # Formats that read boxes with their images do not know the number.
        max_objects = self.max_objects or getattr(data.train, "max_objects", _MAX_OBJECTS)
        batching = DetectionBatching(model.batching, max(1, max_objects))
        batches = repeated_batches(data.train, self._augment, batching, self.batch_size, self.seed)
        evaluation = CocoEvaluation(data.validation)
        return self.compiled_setup(model, batches, data, evaluation, "AP")

    def _augment(self, example, generator):
        example = {**example, "image": to_pixels(example["image"], self.channels)}
        return horizontal_flip(example) if generator.random() < self.flip else example
