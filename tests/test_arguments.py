"""Arguments that users do bring, arguments of methods and functions, and inputs of layers."""

import json

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import heads, layers
from keras_spm.arguments import check_integer, check_number
from tests import golden
from tests.helpers import error_message, random_array
from tests.test_constructor_arguments import COUNT, NAN, SHARE, STAGES

# Nothing here depends on the backend.
pytestmark = pytest.mark.only("torch")


# What users do bring: NumPy's numbers, and lists from JSON.


def _as_json(value):
    return json.loads(json.dumps(value))


def _as_numpy(value):
    if isinstance(value, tuple):
        return np.array(value)
    return np.asarray(value)[()] if isinstance(value, (bool, int, float)) else value


VALID = {
    layers.BatchNormalization: {"momentum": 1, "epsilon": 1},
    layers.Conv2D: {"filters": 4, "kernel_size": 3, "strides": 2, "padding": 0},
    layers.ConvolutionalMLP: {"hidden_dim": 4, "linear_attention": True},
    layers.Dense: {"units": 4},
    layers.DepthwiseConv2D: {"kernel_size": 3, "strides": 2},
    layers.DropPath: {"rate": 0},
    layers.GuidedLocalEnhancement: {"num_heads": 2, "guide_kernel_size": 1, "fused": False},
    layers.ImageNormalization: {"mean": (0, 0.5), "std": (1, 0.5)},
    layers.LayerNormalization: {"epsilon": 1e-6},
    layers.OverlappingPatchEmbedding: {"output_dim": 4, "patch_size": 3, "strides": 2},
    layers.PatchEmbedding: {"output_dim": 4, "patch_size": 2, "norm_epsilon": 1e-6},
    layers.PatchMerging: {"output_dim": 4, "norm_epsilon": 1e-6},
    layers.PositionEmbedding: {"grid": (2, 3)},
    layers.SpatialReductionAttention: {"num_heads": 2, "sr_ratio": 1, "linear_attention": False},
    layers.StepwisePatchMerging: {"output_dim": 8, "kernel_sizes": (3, 5), "expansion": 1},
    layers.WindowAttention: {"num_heads": 2, "window_size": 3, "shifted": True},
    heads.Anchors: {"base_scale": 4, "scales_per_octave": 1, "aspect_ratios": (1, 2)},
    heads.FeaturePyramid: {"channels": 8, "extra_levels": 0},
    heads.RetinaNet: {
        "num_classes": 1,
        "num_convs": 0,
        "anchor_scale": 4,
        "score_threshold": 0,
        "iou_threshold": 1,
        "max_detections": 1,
    },
    heads.SemanticFPN: {"num_classes": 1, "channels": 8, "dropout": 0, "fused": True},
    keras_spm.PVT: {**STAGES, "pretrain_image_size": (64, 32), "frozen_stages": 1},
    keras_spm.PVTv2: {**STAGES, "image_shape": (64, 32, 4), "drop_path_rate": 0.1},
}


@pytest.mark.parametrize("constructor", VALID)
def test_numpy_and_json_values(constructor):
    arguments = VALID[constructor]
    keras.utils.set_random_seed(0)  # Of initializers, which are in the configuration.
    expected = constructor(**arguments, name="name").get_config()
    for convert in (_as_json, _as_numpy):
        converted = {name: convert(value) for name, value in arguments.items()}
        keras.utils.set_random_seed(0)
        config = constructor(**converted, name="name").get_config()
        assert config == expected
        json.dumps(config)
    again = constructor.from_config(json.loads(json.dumps(expected)))
    assert again.get_config() == expected


# Methods and functions


@pytest.fixture(scope="module")
def backbone():
    return golden.short_backbone("pvt_v2_spm")


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 64, 4), (1, None, None, 3), (1, 0, 64, 3)])
def test_impossible_shapes_have_no_macs(backbone, shape):
    assert f"{shape}" in error_message(backbone.macs, input_shape=shape)
    assert backbone.macs((None, 64, 64, 3)) == backbone.macs((7, 64, 64, 3))


@pytest.mark.parametrize("shape", [(8, 8, 8), (1, 8, 8, 16), (1, None, 8, 8), (1, 0, 8, 8), (1,)])
@pytest.mark.parametrize(
    "layer",
    [
        layers.GuidedLocalEnhancement(),
        layers.MLP(4),
        layers.PatchEmbedding(4, 2),
        layers.SpatialReductionAttention(2),
        layers.StepwisePatchMerging(16),
        layers.WindowAttention(2),
    ],
)
def test_impossible_shapes_of_layers_have_no_macs(layer, shape):
    if not layer.built:
        layer.build((1, 8, 8, 8))
    assert f"{shape}" in error_message(layers.macs, layer=layer, input_shape=shape)


@pytest.mark.parametrize("value", [5, -1, 1.0, "2", True, NAN])
def test_freezing_a_number_of_stages(backbone, value):
    message = error_message(backbone.freeze, up_to_stage=value)
    assert message == (
        f"`up_to_stage` must be an integer from 0 to 4. Received: up_to_stage={value!r}"
    )
    assert "batch_normalization" in error_message(backbone.freeze, batch_normalization="no")
    assert backbone.frozen_stages == 0


@pytest.mark.parametrize(
    "layer",
    [
        layers.GuidedLocalEnhancement(),
        layers.LayerNormalization(),
        layers.MultiScaleAggregation(8),
        layers.PatchMerging(4),
        layers.PositionEmbedding((4, 4)),
        layers.SpatialReductionAttention(2),
        layers.WindowAttention(2),
    ],
)
def test_inputs_of_another_layer(layer):
    """Maps of one channel, which could be broadcast, and an image that is not in a batch."""
    layer(random_array(1, 4, 4, 8))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4, 1\)"):
        layer(random_array(1, 4, 4, 1))
    if not isinstance(layer, layers.LayerNormalization):  # It takes maps of any rank.
        with pytest.raises(ValueError, match="found ndim=3"):
            type(layer).from_config(layer.get_config())(random_array(4, 4, 8))


def test_channels_of_the_normalization():
    for channels in (1, 4):
        with pytest.raises(ValueError, match=f"one value per channel, {channels}"):
            layers.ImageNormalization()(random_array(1, 4, 4, channels))
    first = layers.ImageNormalization(data_format="channels_first")
    assert tuple(first(random_array(1, 3, 4, 5)).shape) == (1, 3, 4, 5)
    with pytest.raises(ValueError, match="Unknown data_format 'first'"):
        layers.ImageNormalization(data_format="first")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_spm.fuse("b1"), "`model` must be a Keras model. Received: model='b1'"),
        (lambda: keras_spm.compare(keras.Sequential(), {}), "`model` must be a backbone or"),
        (lambda: layers.macs("b1", (1, 8, 8, 3)), "`layer` must be a Keras layer"),
        (lambda: layers.macs(layers.MLP(4), (1, 8, 8, 3)), "`layer` must be built"),
        (lambda: heads.RetinaNet()({"P3": random_array(1, 4, 4, 2)}), "num_classes=None"),
        (lambda: heads.SemanticFPN()({"P3": random_array(1, 4, 4, 2)}), "num_classes=None"),
        (lambda: heads.FeaturePyramid(4)({"C3": random_array(1, 4, 4, 2)}), "inputs='C3'"),
        (lambda: heads.Anchors()({"C3": random_array(1, 4, 4, 2)}), "inputs='C3'"),
    ],
)
def test_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_boxes_that_are_not_in_a_batch():
    boxes, labels = random_array(3, 4), np.zeros(3, "int32")
    for function in (
        lambda: heads.non_max_suppression(boxes, random_array(3), labels, 0.5, 5),
        lambda: heads.Matcher(0.5, 0.4)(boxes, boxes, labels),
    ):
        assert "shapes (3, 4) and (3,)" in error_message(function)


@pytest.mark.parametrize("argument", ["iou_threshold", "max_detections"])
def test_suppression(argument):
    boxes, scores, labels = np.zeros((1, 2, 4)), np.ones((1, 2)), np.zeros((1, 2), "int32")
    refused = {"iou_threshold": (2, *SHARE), "max_detections": COUNT}
    valid = {"iou_threshold": 0.5, "max_detections": 5}
    for value in refused[argument]:
        arguments = {"boxes": boxes, "scores": scores, "labels": labels, **valid, argument: value}
        assert argument in error_message(heads.non_max_suppression, **arguments)


def test_messages():
    with pytest.raises(ValueError, match="^`n` must be an integer of at least 1. Received: n=0$"):
        check_integer("n", 0)
    with pytest.raises(ValueError, match="^`n` must be an integer from 2 to 3. Received: n=4$"):
        check_integer("n", 4, 2, 3)
    with pytest.raises(ValueError, match="^`x` must be a finite number, above 0 and below 1. Rec"):
        check_number("x", 1, 0, 1, allow_minimum=False, allow_maximum=False)
    with pytest.raises(ValueError, match="^`x` must be a finite number, at least 0. Received: x="):
        check_number("x", np.zeros((90, 90)))
