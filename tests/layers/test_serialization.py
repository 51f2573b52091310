"""Every layer and head in a functional model: serialization, shapes, training, policies."""

import functools
import json

import keras
import numpy as np
import pytest

from keras_spm import heads, layers
from keras_spm.layers.composite import SequentialLayer
from keras_spm.layers.resizing import ResizeLike
from tests import contract, golden
from tests.helpers import check_round_trips, random_array, randomize, to_numpy

MAPS = (4, 6, 8)
PYRAMID = {"P2": (8, 7, 3), "P3": (4, 4, 4), "P4": (2, 2, 5), "P5": (1, 1, 6)}


def _sequential(name=None, **kwargs):
    mlp = layers.MLP(12, name="mlp", **kwargs)
    merging = layers.PatchMerging(6, name="merging", **kwargs)
    return SequentialLayer([mlp, merging], name=name, **kwargs)


def _block(**kwargs):
    attention = layers.SpatialReductionAttention(2, name="attention", **kwargs)
    mlp = layers.MLP(12, name="mlp", **kwargs)
    return layers.TransformerBlock(attention, mlp, 0.1, name="block1", **kwargs)


def _stage(stage_class, name=None, **kwargs):
    merging = SequentialLayer([layers.PatchMerging(8, **kwargs)], name="merging", **kwargs)
    norm = layers.LayerNormalization(name="norm", **kwargs)
    positions = layers.PositionEmbedding((2, 2), name="position_embedding", **kwargs)
    return stage_class([_block(**kwargs)], merging, norm, positions, name=name, **kwargs)


def _gated(name=None, **kwargs):
    default = layers.PatchMerging(8, name="default", **kwargs)
    spm = layers.StepwisePatchMerging(
        8, (3, 5), num_heads=2, guide_kernel_size=3, name="spm", **kwargs
    )
    return layers.GatedMerging(default, spm, name=name, **kwargs)


# name → (function (**kwargs) → layer, structure of input shapes without the batch)
ROWS = {
    "BatchNormalization": (layers.BatchNormalization, MAPS),
    "ClassTokenStage": (functools.partial(_stage, layers.ClassTokenStage), MAPS),
    "Conv2D": (functools.partial(layers.Conv2D, 6, 3, 2, 1), MAPS),
    "ConvolutionalMLP": (functools.partial(layers.ConvolutionalMLP, 12, True), MAPS),
    "Dense": (functools.partial(layers.Dense, 6, "relu"), MAPS),
    "DepthwiseConv2D": (functools.partial(layers.DepthwiseConv2D, 3, 2), MAPS),
    "DropPath": (functools.partial(layers.DropPath, 0.5), MAPS),
    "GatedMerging": (_gated, MAPS),
    "GuidedLocalEnhancement": (functools.partial(layers.GuidedLocalEnhancement, 4, 3), (5, 6, 8)),
    "ImageNormalization": (layers.ImageNormalization, (4, 6, 3)),
    "LayerNormalization": (layers.LayerNormalization, MAPS),
    "MLP": (functools.partial(layers.MLP, 12), MAPS),
    "MultiScaleAggregation": (functools.partial(layers.MultiScaleAggregation, 6, (3, 5)), MAPS),
    "OverlappingPatchEmbedding": (
        functools.partial(layers.OverlappingPatchEmbedding, 6, 3, 2),
        MAPS,
    ),
    "PatchEmbedding": (functools.partial(layers.PatchEmbedding, 6, 4), MAPS),
    "PatchMerging": (functools.partial(layers.PatchMerging, 6), MAPS),
    "PositionEmbedding": (functools.partial(layers.PositionEmbedding, (3, 3)), MAPS),
    "ResizeLike": (ResizeLike, [MAPS, (7, 5, 3)]),
    "SequentialLayer": (_sequential, MAPS),
    "SpatialReductionAttention": (functools.partial(layers.SpatialReductionAttention, 2, 2), MAPS),
    "Stage": (functools.partial(_stage, layers.Stage), MAPS),
    "StepwisePatchMerging": (
        functools.partial(layers.StepwisePatchMerging, 8, (3, 5), num_heads=2, guide_kernel_size=3),
        MAPS,
    ),
    "TransformerBlock": (_block, MAPS),
    "WindowAttention": (functools.partial(layers.WindowAttention, 2, 3, True), MAPS),
}

_RCNN = {
    **{"num_classes": 3, "pyramid_channels": 8, "rpn_channels": 8, "box_head_channels": 8},
    "seed": 0,
}
HEADS = {
    "Anchors": (heads.Anchors, PYRAMID),
    "FasterRCNN": (functools.partial(heads.FasterRCNN, **_RCNN), PYRAMID),
    "FeaturePyramid": (functools.partial(heads.FeaturePyramid, 8, 2), PYRAMID),
    "MaskRCNN": (functools.partial(heads.MaskRCNN, mask_head_channels=8, **_RCNN), PYRAMID),
    "RetinaNet": (
        functools.partial(heads.RetinaNet, 3, pyramid_channels=8, channels=8, num_convs=1),
        {level: PYRAMID[level] for level in heads.RetinaNet.levels},
    ),
    "SegFormerHead": (functools.partial(heads.SegFormerHead, 3, channels=8), PYRAMID),
    "SemanticFPN": (
        functools.partial(heads.SemanticFPN, 3, pyramid_channels=8, channels=8),
        PYRAMID,
    ),
    "UPerNet": (
        functools.partial(heads.UPerNet, 3, channels=8, pool_scales=(1, 2), auxiliary_channels=8),
        PYRAMID,
    ),
}
ROWS.update(HEADS)
# Heads whose results stay in float32 under every policy.
FLOAT32 = tuple(name for name in HEADS if name != "FeaturePyramid")

rows = pytest.mark.parametrize("name", ROWS)


def _model(name, **kwargs):
    """Returns a functional model of the layer with random weights, and inputs for it."""
    make, shapes = ROWS[name]
    if isinstance(shapes, dict):
        inputs = {level: keras.Input(shape, name=level) for level, shape in shapes.items()}
    else:
        inputs = keras.tree.map_shape_structure(keras.Input, shapes)
    model = randomize(keras.Model(inputs, make(**kwargs)(inputs)))
    return model, keras.tree.map_shape_structure(lambda shape: random_array(2, *shape), shapes)


def test_every_public_layer_has_a_row():
    public = {name: getattr(layers, name) for name in layers.__all__}
    public.update({name: getattr(heads, name) for name in heads.__all__ if name != "Head"})
    classes = {name for name, value in public.items() if isinstance(value, type)}
    assert {name for name in classes if issubclass(public[name], keras.layers.Layer)} <= set(ROWS)


@rows
def test_round_trips(name, tmp_path):
    check_round_trips(*_model(name), tmp_path)


@pytest.mark.only("torch")
@rows
def test_config_round_trip(name):
    layer = ROWS[name][0]()
    other = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert other.get_config() == layer.get_config()


@rows
def test_output_shape_and_dtype(name):
    model, inputs = _model(name)
    layer = model.layers[-1]
    shapes = keras.tree.map_structure(lambda array: array.shape, inputs)
    expected = keras.tree.map_structure(lambda array: tuple(array.shape), layer(inputs))
    assert layer.compute_output_shape(shapes) == expected
    symbolic = layer(keras.tree.map_structure(lambda array: keras.KerasTensor(array.shape), inputs))
    assert keras.tree.map_structure(lambda tensor: tensor.shape, symbolic) == expected


# Those with a formulation for each backend, and heads.
_TRAINED = (
    *("BatchNormalization", "ClassTokenStage", "DropPath", "MultiScaleAggregation"),
    *("RetinaNet", "SemanticFPN", "StepwisePatchMerging", "WindowAttention"),
)


@pytest.mark.parametrize(
    "name",
    [name for name in ROWS if name != "Anchors"] if keras.config.backend() == "torch" else _TRAINED,
)
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
# Heads on regions are called by the losses, which are not computed here.
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
def test_training_step(name):
    model, inputs = _model(name)
    # Anchors have no batch axis.
    outputs = [each for each in keras.tree.flatten(model.output) if each.shape[0] is None]
    model = keras.Model(model.input, outputs)
    targets = keras.tree.map_structure(lambda output: np.zeros(output.shape), model(inputs))
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=keras.config.backend() == "jax")
    history = model.fit(inputs, targets, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    changed = [(old != new).any() for old, new in zip(before, model.get_weights(), strict=True)]
    assert any(changed) or not before


@pytest.mark.only("torch")
@rows
def test_mixed_bfloat16(name):
    model, inputs = _model(name, dtype="mixed_bfloat16")
    outputs = model(inputs)
    if "RCNN" in name:  # Its maps are read by further layers.
        assert keras.backend.standardize_dtype(outputs.pop("pyramid")["P6"].dtype) == "bfloat16"
    for output in keras.tree.flatten(outputs):
        expected = "float32" if name in FLOAT32 else "bfloat16"
        assert keras.backend.standardize_dtype(output.dtype) == expected
        assert np.isfinite(to_numpy(keras.ops.cast(output, "float32"))).all()
    assert {variable.dtype for variable in model.weights} <= {"float32"}


@pytest.mark.parametrize(
    ("name", "merging"),
    [
        ("pvt_spm", "spm"),
        pytest.param("pvt_v2_spm", "msa", marks=pytest.mark.only("torch")),
        pytest.param("pvt_v2_spm", "gle", marks=pytest.mark.only("torch")),
    ],
)
def test_models_from_the_tensors_of_a_backbone(name, merging, tmp_path):
    backbone = golden.two_stage_backbone(name, merging=merging)
    outputs = {**backbone.pyramid_outputs, "pooled": backbone.pooled_output}
    model = randomize(keras.Model(backbone.input, outputs))
    assert {v.path for v in model.weights} <= {v.path for v in backbone.weights}
    check_round_trips(model, contract.images(*contract.USUAL), tmp_path)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    "name",
    [
        "StepwisePatchMerging",
        *(pytest.param(name, marks=pytest.mark.only("torch")) for name in ("MLP", "Stage")),
    ],
)
def test_quantized_children_are_saved(name, tmp_path):
    model, inputs = _model(name)
    model.quantize("int8")
    assert "int8" in {variable.dtype for variable in model.weights}
    check_round_trips(model, inputs, tmp_path)
