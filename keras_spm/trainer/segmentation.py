"""Recipes of semantic segmentation."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.data import ImageBatching, SegmentationAugmentation
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.splits import DataSplits
from keras_spm.heads import SegFormerHead, SemanticFPN, UPerNet
from keras_spm.tasks import SemanticSegmenter
from keras_spm.trainer.dense import DenseRecipe
from keras_spm.trainer.recipe import COUNT, POSITIVE, Range, Setup


def _semantic_fpn(recipe):
    return SemanticFPN(pyramid_channels=recipe.pyramid_channels, channels=recipe.head_channels)


def _upernet(recipe):
    # Half the channels in the auxiliary head, as in mmsegmentation.
    return UPerNet(channels=recipe.head_channels, auxiliary_channels=-(-recipe.head_channels // 2))


def _segformer(recipe):
    return SegFormerHead(channels=recipe.head_channels)


# {name: function from a recipe to the decoder}
_DECODERS = {"semantic_fpn": _semantic_fpn, "upernet": _upernet, "segformer": _segformer}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(DenseRecipe):
    """Hyperparameters of a `SemanticSegmenter`.

    Attributes:
        decoder: `"semantic_fpn"`, `"upernet"` or `"segformer"`.
        pyramid_norms: whether the levels of the feature pyramid are normalized, see `Swin`; of
            presets of Swin only.
        image_size: height and width of the training crops, pixels.
        test_min_size, test_max_size: limits of the shorter and the longer side of test images,
            which are resized with their aspect ratio kept, and then to a multiple of
            `size_divisor`.
        min_scale, max_scale: limits of the random scale before the crop, relative to the test
            size; 1 and 1 for none.
        color_jitter: whether brightness, contrast, saturation and hue are changed at random.
        label_map: stored values of segmentation maps and their class, such as `255=1,11=255`;
            255 means ignored. Of folders of images and masks only.
    """

    image_size: int
    test_min_size: int
    test_max_size: int
    min_scale: float
    max_scale: float
    color_jitter: bool
    decoder: str = "semantic_fpn"
    pyramid_norms: bool = False
    label_map: str = ""

    kind = "segmentation"
    task = SemanticSegmenter
    default = "segmentation_folder"
    variant_keys = ("decoder", "preset")
    scene_size = "image_size"
    scene_class_names: ClassVar[list[str]] = CLASS_NAMES
    ranges: ClassVar[dict[str, Range]] = {
        **DenseRecipe.ranges,
        **dict.fromkeys(("image_size", "test_min_size", "test_max_size"), COUNT),
        **dict.fromkeys(("min_scale", "max_scale"), POSITIVE),
    }

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **DenseRecipe.choices,
        "decoder": tuple(_DECODERS),
    }

    def __post_init__(self):
        super().__post_init__()
        self.check_order("test_min_size", "test_max_size")
        self.check_order("min_scale", "max_scale")
        _parse_label_map(self.label_map)

    def reader_arguments(self) -> dict[str, Any]:
        label_map = _parse_label_map(self.label_map)
        return {**super().reader_arguments(), **({"label_map": label_map} if label_map else {})}

    def family_arguments(self) -> dict[str, Any]:
        return {"pyramid_norms": True} if self.pyramid_norms else {}

    def build(self, data: DataSplits) -> Setup:
        model = SemanticSegmenter(
            self.backbone(),
            len(data.class_names),
            _DECODERS[self.decoder](self),
            data.class_names,
            batching=ImageBatching(
                self.test_min_size, self.test_max_size, self.size_divisor, resize_to_divisor=True
            ),
            class_colors=data.class_colors,
        )
        augmentation = SegmentationAugmentation(
            self.image_size,
            (self.test_max_size, self.test_min_size),
            (self.min_scale, self.max_scale),
            flip=self.flip,
            color_jitter=self.color_jitter,
            channels=self.channels,
        )
        batches = repeated_batches(data.train, augmentation, _stack, seed=self.seed, **self.shard())
        evaluation = SegmentationEvaluation(data.validation)
        return self.compiled_setup(model, batches, data, evaluation, "mean_iou")


def _parse_label_map(text):
    """Returns {stored value: class} of a text such as "255=1,11=255"."""
    label_map = {}
    for pair in filter(None, text.split(",")):
        stored, _, label = (each.strip() for each in pair.partition("="))
        if not (stored.isdecimal() and label.isdecimal()):
            raise ValueError(
                "`label_map` must be pairs of a stored value and a class, such as 255=1,11=255. "
                f"Received: label_map={text!r}"
            )
        label_map[int(stored)] = int(label)
    return label_map


def _stack(examples):
    names = ("image", "segmentation_map")
    return tuple(np.stack([example[name] for example in examples]) for name in names)
