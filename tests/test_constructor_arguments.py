"""Constructor arguments that can only be mistakes: one line names argument, value and range."""

import inspect
import math

import numpy as np
import pytest

import keras_spm
from keras_spm import heads, layers
from tests.helpers import error_message

# Nothing here depends on the backend.
pytestmark = pytest.mark.only("torch")

NAN, INFINITY = math.nan, math.inf

# What no argument of a kind may be.
COUNT = (0, -1, 1.5, 2.0, "2", True, None, NAN)
COUNT_FROM_0 = COUNT[1:]
ODD = (2, *COUNT)
FLAG = ("false", 0, 1, None, 1e-6)
NUMBER = (NAN, INFINITY, np.float16("inf"), -1, "0.5", True, None, 10**400)
POSITIVE = (0, *NUMBER)
EPSILON = (*POSITIVE, 1e5)
SHARE = (1.5, *NUMBER)
RATE = (1, *SHARE)
LAYER = (7, None, "gelu", layers.MLP, np.zeros((2, 2)))


def lists(values, length=None, valid=1):
    """Values of an argument that is a list: a bad entry, a wrong length, no list at all."""
    some = [valid] * ((length or 2) - 1)
    lengths = [] if length is None else [some, [*some, valid, valid]]
    return [*([*some, value] for value in values), *lengths, [], valid, "abc", {"a": valid}]


_BLOCK = layers.MLP(4)
_STAGE = (
    {"blocks": [_BLOCK]},
    {
        "blocks": lists(LAYER, valid=_BLOCK),
        "merging": (7, "spm"),
        "norm": (7, layers.LayerNormalization),
        "position_embedding": (True, layers.PositionEmbedding),
    },
)

# constructor → (valid arguments, {argument: values that are refused})
LAYERS = {
    layers.BatchNormalization: ({}, {"momentum": SHARE, "epsilon": EPSILON}),
    layers.ClassTokenStage: _STAGE,
    layers.GatedMerging: (
        {"default": layers.PatchMerging(8), "spm": layers.StepwisePatchMerging(8)},
        {"default": LAYER, "spm": LAYER},
    ),
    layers.Conv2D: (
        {"filters": 4, "kernel_size": 3},
        {
            "filters": COUNT,
            "kernel_size": (*COUNT, [3, 0], [3, 3, 3]),
            "strides": (*COUNT, [1, 0]),
            "padding": COUNT_FROM_0,
        },
    ),
    layers.ConvolutionalMLP: ({"hidden_dim": 4}, {"hidden_dim": COUNT, "linear_attention": FLAG}),
    layers.Dense: ({"units": 4}, {"units": COUNT}),
    layers.DepthwiseConv2D: ({"kernel_size": 3}, {"kernel_size": ODD, "strides": (*COUNT, [1, 0])}),
    layers.DropPath: ({"rate": 0.1}, {"rate": RATE}),
    layers.GuidedLocalEnhancement: (
        {},
        {"num_heads": COUNT, "guide_kernel_size": ODD, "fused": FLAG},
    ),
    layers.ImageNormalization: (
        {},
        {"mean": lists((*SHARE, 123.7)), "std": lists((0, *NUMBER, 58.4), 3)},
    ),
    layers.LayerNormalization: ({}, {"epsilon": EPSILON}),
    layers.MLP: ({"hidden_dim": 4}, {"hidden_dim": COUNT}),
    layers.MultiScaleAggregation: (
        {"output_dim": 8},
        {
            "output_dim": COUNT,
            "kernel_sizes": (*lists(ODD), (3, 3)),
            "expansion": COUNT,
            "fused": FLAG,
        },
    ),
    layers.OverlappingPatchEmbedding: (
        {"output_dim": 4, "patch_size": 3, "strides": 2},
        {
            "output_dim": COUNT,
            "patch_size": ODD,
            "strides": (3, 4, *COUNT),
            "norm_epsilon": EPSILON,
        },
    ),
    layers.PatchEmbedding: (
        {"output_dim": 4, "patch_size": 2},
        {"output_dim": COUNT, "patch_size": COUNT, "norm_epsilon": EPSILON},
    ),
    layers.PatchMerging: ({"output_dim": 4}, {"output_dim": COUNT, "norm_epsilon": EPSILON}),
    layers.PositionEmbedding: ({"grid": (2, 2)}, {"grid": lists(COUNT, 2)}),
    layers.SpatialReductionAttention: (
        {"num_heads": 2},
        {"num_heads": COUNT, "sr_ratio": COUNT, "linear_attention": FLAG, "norm_epsilon": EPSILON},
    ),
    layers.Stage: _STAGE,
    layers.StepwisePatchMerging: (
        {"output_dim": 8},
        {
            "output_dim": COUNT,
            "kernel_sizes": (*lists(ODD), (3, 3)),
            "expansion": COUNT,
            "num_heads": (3, 16, *COUNT),
            "guide_kernel_size": ODD,
            "fused": FLAG,
        },
    ),
    layers.TransformerBlock: (
        {"attention": layers.WindowAttention(2), "mlp": _BLOCK},
        {
            "attention": LAYER,
            "mlp": LAYER,
            "drop_path_rate": RATE,
            "norm_epsilon": EPSILON,
            "gradient_checkpointing": FLAG,
        },
    ),
    layers.WindowAttention: (
        {"num_heads": 2},
        {"num_heads": COUNT, "window_size": COUNT, "shifted": FLAG, "always_shift": FLAG},
    ),
}
HEADS = {
    heads.Anchors: (
        {},
        {"base_scale": POSITIVE, "scales_per_octave": COUNT, "aspect_ratios": lists(POSITIVE)},
    ),
    heads.BalancedSampler: (
        {"num_samples": 4, "positive_fraction": 0.5},
        {"num_samples": COUNT, "positive_fraction": SHARE},
    ),
    heads.BoxCoder: ({}, {"weights": lists(POSITIVE, 4)}),
    heads.FasterRCNN: (
        {},
        {
            "num_classes": [value for value in COUNT if value is not None],
            "pyramid_channels": COUNT,
            "rpn_channels": COUNT,
            "box_head_channels": COUNT,
            "max_proposals": COUNT,
            "sampling_ratio": COUNT_FROM_0,
            "score_threshold": (5, *SHARE),
            "iou_threshold": (2, *SHARE),
            "max_detections": COUNT,
            "num_samples": COUNT,
            "seed": [value for value in COUNT_FROM_0 if value is not None],
        },
    ),
    heads.FeaturePyramid: (
        {},
        {"channels": COUNT, "extra_levels": COUNT_FROM_0, "subsample_extra_levels": FLAG},
    ),
    heads.MaskRCNN: (
        {},
        {
            "num_classes": [value for value in COUNT if value is not None],
            "pyramid_channels": COUNT,
            "rpn_channels": COUNT,
            "box_head_channels": COUNT,
            "mask_head_channels": COUNT,
            "max_proposals": COUNT,
            "sampling_ratio": COUNT_FROM_0,
            "score_threshold": (5, *SHARE),
            "iou_threshold": (2, *SHARE),
            "max_detections": COUNT,
            "num_samples": COUNT,
            "seed": [value for value in COUNT_FROM_0 if value is not None],
        },
    ),
    heads.Matcher: (
        {"positive_threshold": 0.5, "negative_threshold": 0.4},
        {
            "positive_threshold": SHARE,
            "negative_threshold": (0.6, *SHARE),
            "allow_low_quality_matches": FLAG,
            "low_quality_threshold": SHARE,
        },
    ),
    heads.RetinaNet: (
        {},
        {
            "num_classes": [value for value in COUNT if value is not None],
            "pyramid_channels": COUNT,
            "channels": COUNT,
            "num_convs": COUNT_FROM_0,
            "anchor_scale": POSITIVE,
            "box_loss": ("l2", 3, None, ["l1"]),
            "candidates_per_level": COUNT,
            "score_threshold": (5, *SHARE),
            "iou_threshold": (2, *SHARE),
            "max_detections": COUNT,
        },
    ),
    heads.SegFormerHead: (
        {},
        {
            "num_classes": [value for value in COUNT if value is not None],
            "channels": COUNT,
            "dropout": RATE,
            "fused": FLAG,
        },
    ),
    heads.SemanticFPN: (
        {},
        {
            "num_classes": [value for value in COUNT if value is not None],
            "pyramid_channels": COUNT,
            "channels": COUNT,
            "dropout": RATE,
            "fused": FLAG,
        },
    ),
    heads.UPerNet: (
        {},
        {
            "num_classes": [value for value in COUNT if value is not None],
            "channels": COUNT,
            "pool_scales": lists(COUNT),
            "auxiliary_channels": COUNT,
            "auxiliary_weight": NUMBER,
            "dropout": RATE,
            "fused": FLAG,
        },
    ),
}

STAGES = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
    "sr_ratios": (4, 2, 1, 1),
}
_ANY_BACKBONE = {
    "drop_path_rate": RATE,
    "merging": ("smp", 3, ["spm"]),
    "fused": FLAG,
    "image_shape": (
        *lists(COUNT, 3, valid=64),
        (16, 64, 3),
        (64, 64, None),
        (64, 64, 0),
        (-64, 64, 3),
        (64, "64", 3),
    ),
    "data_format": ("channel_last", 3),
    "frozen_stages": (5, *COUNT_FROM_0),
    "frozen_batch_normalization": FLAG,
    "gradient_checkpointing": FLAG,
}
_ANY_PVT = {
    "embed_dims": lists(COUNT, 4, valid=8),
    "depths": lists(COUNT, 4),
    "num_heads": (*lists(COUNT, 4), (1, 2, 5, 4)),
    "mlp_ratios": lists(POSITIVE, 4),
    "sr_ratios": lists(COUNT, 4),
    "embedding_norm_epsilon": EPSILON,
    **_ANY_BACKBONE,
}
BACKBONES = {
    keras_spm.MiT: (
        STAGES,
        {
            **{key: each for key, each in _ANY_PVT.items() if key != "embedding_norm_epsilon"},
            "norm_epsilon": EPSILON,
        },
    ),
    keras_spm.PVT: (
        STAGES,
        {
            **_ANY_PVT,
            "sr_ratios": (*_ANY_PVT["sr_ratios"], (8, 4, 2, 2)),
            "class_token": FLAG,
            "pretrain_image_size": lists(COUNT, 2),
        },
    ),
    keras_spm.PVTv2: (STAGES, {**_ANY_PVT, "linear_attention": FLAG}),
    keras_spm.Swin: (
        {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
        {
            "embed_dim": COUNT,
            "depths": lists(COUNT, 4),
            "num_heads": (*lists(COUNT, 4), (3, 2, 4, 8)),
            "window_size": COUNT,
            "mlp_ratio": POSITIVE,
            "pyramid_norms": FLAG,
            **_ANY_BACKBONE,
        },
    ),
}

CONSTRUCTORS = {**LAYERS, **HEADS, **BACKBONES}
ROWS = [
    (constructor, argument)
    for constructor, (_, refused) in CONSTRUCTORS.items()
    for argument in refused
]


@pytest.mark.parametrize(("constructor", "argument"), ROWS)
def test_mistakes_are_refused(constructor, argument):
    valid, refused = CONSTRUCTORS[constructor]
    for value in refused[argument]:
        message = error_message(constructor, **{**valid, argument: value})
        assert argument in message, (value, message)
        assert "Received: " in message or "Available: " in message, (value, message)


def test_the_table_is_complete():
    """Every public layer and head, and every argument that is a number, a flag or a list."""
    public = {getattr(module, name) for module in (layers, heads) for name in module.__all__}
    functions = {layers.macs, heads.non_max_suppression, heads.roi_align}
    assert public - functions - {heads.Head} == {*LAYERS, *HEADS}
    free = {"kwargs", "seed", "padding", "data_format", "activation", "use_bias", "dtype"}
    free |= {"kernel_initializer", "depthwise_initializer"}
    for constructor, (_, refused) in CONSTRUCTORS.items():
        arguments = inspect.signature(constructor).parameters.keys()
        assert arguments - free <= refused.keys(), constructor
