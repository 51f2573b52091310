"""Every argument of a head is in its configuration, from which it can be rebuilt."""

import inspect

import keras
import pytest

from keras_spm import heads
from keras_spm.registry import HEADS

# All arguments, with values other than the defaults.
ARGUMENTS = {
    heads.Anchors: {"base_scale": 3.0, "scales_per_octave": 2, "aspect_ratios": (1.0, 3.0)},
    heads.FasterRCNN: {
        "num_classes": 3,
        "pyramid_channels": 16,
        "rpn_channels": 8,
        "box_head_channels": 12,
        "max_proposals": 9,
        "sampling_ratio": 2,
        "score_threshold": 0.1,
        "iou_threshold": 0.4,
        "max_detections": 7,
        "num_samples": 8,
        "seed": 5,
    },
    heads.FeaturePyramid: {"channels": 8, "extra_levels": 2, "subsample_extra_levels": True},
    heads.MaskRCNN: {
        "num_classes": 3,
        "pyramid_channels": 16,
        "rpn_channels": 8,
        "box_head_channels": 12,
        "mask_head_channels": 10,
        "max_proposals": 9,
        "sampling_ratio": 2,
        "score_threshold": 0.1,
        "iou_threshold": 0.4,
        "max_detections": 7,
        "num_samples": 8,
        "seed": 5,
    },
    heads.RetinaNet: {
        "num_classes": 3,
        "pyramid_channels": 16,
        "channels": 8,
        "num_convs": 2,
        "anchor_scale": 3.0,
        "box_loss": "smooth_l1",
        "candidates_per_level": 9,
        "score_threshold": 0.1,
        "iou_threshold": 0.4,
        "max_detections": 7,
    },
    heads.SegFormerHead: {"num_classes": 3, "channels": 8, "dropout": 0.3, "fused": True},
    heads.SemanticFPN: {
        "num_classes": 3,
        "pyramid_channels": 16,
        "channels": 8,
        "dropout": 0.3,
        "fused": True,
    },
    heads.UPerNet: {
        "num_classes": 3,
        "channels": 8,
        "pool_scales": (1, 2),
        "auxiliary_channels": 6,
        "auxiliary_weight": 0.1,
        "dropout": 0.3,
        "fused": True,
    },
}

# Nothing here depends on the backend.
pytestmark = pytest.mark.only("torch")


@pytest.mark.parametrize("head", ARGUMENTS)
def test_config_round_trip(head):
    arguments = ARGUMENTS[head]
    parameters = inspect.signature(head).parameters
    assert parameters.keys() - {"kwargs"} == arguments.keys()
    assert all(parameters[name].default != value for name, value in arguments.items())
    layer = head(**arguments, name="head")
    assert {name: layer.get_config()[name] for name in arguments} == arguments
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is head and again.get_config() == layer.get_config()


def test_heads_are_registered():
    assert HEADS["RetinaNet"] is heads.RetinaNet
    assert HEADS["MaskRCNN"] is heads.MaskRCNN
    assert HEADS["SemanticFPN"] is heads.SemanticFPN
    with pytest.raises(ValueError, match="RetinaNet"):
        HEADS["RetinaNt"]


def test_unknown_box_losses_are_refused():
    with pytest.raises(ValueError, match="box_loss.*smooth_l1"):
        heads.RetinaNet(3, box_loss="smooth_l2")
