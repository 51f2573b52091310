"""Recipes of object detection and instance segmentation."""

import dataclasses
from typing import ClassVar

import keras

from keras_spm.data import DetectionBatching, ImageBatching
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.splits import DataSplits
from keras_spm.data.transforms import horizontal_flip, to_pixels
from keras_spm.heads import MaskRCNN, RetinaNet
from keras_spm.heads.retinanet import BOX_LOSSES
from keras_spm.tasks import InstanceSegmenter, ObjectDetector
from keras_spm.trainer.dense import DenseRecipe
from keras_spm.trainer.recipe import COUNT, COUNT_OR_ZERO, POSITIVE, Range, Setup

_MAX_OBJECTS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectRecipe(DenseRecipe):
    """Hyperparameters of an `ObjectDetector`, whatever its detector.

    Attributes:
        min_size: length of the shorter side of images, pixels. The aspect ratio is kept.
        max_size: limit of the longer side.
        frozen_stages: number of frozen stages of the backbone.
        max_objects: largest number of objects in a training image; 0 for that of the data.
        max_detections: largest number of objects that are detected in an image.
    """

    min_size: int
    max_size: int
    frozen_stages: int
    max_objects: int = 0
    max_detections: int = 100

    scene_size = "min_size"
    scene_class_names: ClassVar[list[str]] = CLASS_NAMES[1:]
    metric: ClassVar[str] = "AP"  # Selects the best epoch.
    ranges: ClassVar[dict[str, Range]] = {
        **DenseRecipe.ranges,
        **dict.fromkeys(("min_size", "max_size", "max_detections"), COUNT),
        "max_objects": COUNT_OR_ZERO,
        "frozen_stages": Range(0, 4),
    }

    def __post_init__(self):
        super().__post_init__()
        self.check_order("min_size", "max_size")

    def detector(self) -> keras.layers.Layer:
        """Builds the detector."""
        raise NotImplementedError(f"{type(self).__name__} must implement `detector`.")

    def build(self, data: DataSplits) -> Setup:
        backbone = self.backbone()
        model = self.task(
            backbone,
            len(data.class_names),
            self.detector(),
            data.class_names,
            batching=ImageBatching(self.min_size, self.max_size, self.size_divisor),
        )
        backbone.freeze(self.frozen_stages)
        # Formats that read boxes with their images do not know the number.
        max_objects = self.max_objects or getattr(data.train, "max_objects", _MAX_OBJECTS)
        batching = DetectionBatching(model.batching, max(1, max_objects))
        batches = repeated_batches(
            data.train, self._augment, batching, seed=self.seed, **self.shard()
        )
        evaluation = self.task.evaluation_callback(data.validation)
        return self.compiled_setup(model, batches, data, evaluation, self.metric)

    def _augment(self, example, generator):
        example = {**example, "image": to_pixels(example["image"], self.channels)}
        return horizontal_flip(example) if generator.random() < self.flip else example


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionRecipe(ObjectRecipe):
    """Hyperparameters of an `ObjectDetector` with a RetinaNet.

    Attributes:
        num_convs: convolutions in each tower of the head.
        anchor_scale: side of the smallest anchor, in strides.
        box_loss: as in `RetinaNet`.
    """

    num_convs: int
    anchor_scale: float
    box_loss: str

    kind = "detection"
    task = ObjectDetector
    default = "detection_folder"
    ranges: ClassVar[dict[str, Range]] = {
        **ObjectRecipe.ranges,
        "num_convs": COUNT_OR_ZERO,
        "anchor_scale": POSITIVE,
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **ObjectRecipe.choices,
        "box_loss": tuple(BOX_LOSSES),
    }

    def detector(self) -> RetinaNet:
        return RetinaNet(
            pyramid_channels=self.pyramid_channels,
            channels=self.head_channels,
            num_convs=self.num_convs,
            anchor_scale=self.anchor_scale,
            box_loss=self.box_loss,
            max_detections=self.max_detections,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstancesRecipe(ObjectRecipe):
    """Hyperparameters of an `InstanceSegmenter` with a Mask R-CNN.

    `head_channels` are those of the region proposal network and of the mask head.

    Attributes:
        box_head_channels: channels of the two layers of the box head.
        max_proposals: largest number of proposals in an image.
        num_samples: proposals of an image that train the heads, of which a quarter have objects.
        sampling_ratio: samples of RoIAlign along each side of a bin; 0 for one per position.
    """

    box_head_channels: int
    max_proposals: int
    num_samples: int = 512
    sampling_ratio: int = 0

    kind = "instances"
    task = InstanceSegmenter
    default = "instances_folder"
    scene_masks = True
    metric = "mask_AP"
    ranges: ClassVar[dict[str, Range]] = {
        **ObjectRecipe.ranges,
        **dict.fromkeys(("box_head_channels", "max_proposals", "num_samples"), COUNT),
        "sampling_ratio": COUNT_OR_ZERO,
    }

    def detector(self) -> MaskRCNN:
        return MaskRCNN(
            pyramid_channels=self.pyramid_channels,
            rpn_channels=self.head_channels,
            box_head_channels=self.box_head_channels,
            mask_head_channels=self.head_channels,
            max_proposals=self.max_proposals,
            num_samples=self.num_samples,
            sampling_ratio=self.sampling_ratio,
            max_detections=self.max_detections,
        )
