"""PVT v2 in the official code, timm and transformers."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.converters.hf_config import ConfigTable, register_config
from keras_spm.converters.pvt import (
    CONFIG_ARGUMENTS,
    CONFIG_CONSTANTS,
    OFFICIAL_BLOCK,
    OFFICIAL_EMBEDDINGS,
    embedding,
)
from keras_spm.converters.stepwise_patch_merging import MERGING_RULES
from keras_spm.weights.key_mapping import Layout, affine, normalization, stacked_dense
from keras_spm.weights.transforms import CONVOLUTION, DEPTHWISE, LINEAR


def _block(depthwise):
    return *OFFICIAL_BLOCK, *affine("mlp/depthwise_3x3", depthwise, DEPTHWISE)


_OFFICIAL = (
    *OFFICIAL_EMBEDDINGS,
    *(
        rule.nested("stage{stage}/block{block}", "block{stage}.{block_index}")
        for rule in _block("mlp.dwconv.dwconv")
    ),
    *normalization("stage{stage}/norm", "norm{stage}"),
)

_TIMM = (
    *embedding("stem", "patch_embed", "proj", "norm"),
    *embedding("stage{stage}/merging", "stages.{stage_index}.downsample", "proj", "norm"),
    *(
        rule.nested("stage{stage}/merging", "stages.{stage_index}.downsample")
        for rule in MERGING_RULES
    ),
    *(
        rule.nested("stage{stage}/block{block}", "stages.{stage_index}.blocks.{block_index}")
        for rule in _block("mlp.dwconv")
    ),
    *normalization("stage{stage}/norm", "stages.{stage_index}.norm"),
)


_TRANSFORMERS_BLOCK = (
    *normalization("attention_norm", "layer_norm_1"),
    *affine("attention/query", "attention.query", LINEAR),
    *stacked_dense("attention/key_value", ("attention.key", "attention.value")),
    *affine("attention/projection", "attention.proj", LINEAR),
    *affine("attention/reduction", "attention.spatial_reduction", CONVOLUTION),
    *normalization("attention/reduction_norm", "attention.layer_norm"),
    *normalization("mlp_norm", "layer_norm_2"),
    *affine("mlp/fc1", "mlp.dense1", LINEAR),
    *affine("mlp/depthwise_3x3", "mlp.dwconv.dwconv", DEPTHWISE),
    *affine("mlp/fc2", "mlp.dense2", LINEAR),
)

_PREFIX = "pvt_v2."
_TRANSFORMERS_STAGE = _PREFIX + "encoder.layers.{stage_index}"

_TRANSFORMERS = (
    *embedding("stem", f"{_PREFIX}encoder.layers.0.patch_embedding", "proj", "layer_norm"),
    *embedding(
        "stage{stage}/merging", f"{_TRANSFORMERS_STAGE}.patch_embedding", "proj", "layer_norm"
    ),
    *(
        rule.nested("stage{stage}/block{block}", f"{_TRANSFORMERS_STAGE}.blocks.{{block_index}}")
        for rule in _TRANSFORMERS_BLOCK
    ),
    *normalization("stage{stage}/norm", f"{_TRANSFORMERS_STAGE}.layer_norm"),
)

_TRANSFORMERS_LAYOUT = Layout(
    "transformers",
    _TRANSFORMERS,
    head=affine("head", "classifier", LINEAR),
    attributes={"embedding_norm_epsilon": 1e-6},
)
_HEAD = affine("head", "head", LINEAR)

register_layouts(
    "PVTv2",
    (
        Layout("official", _OFFICIAL, _HEAD, attributes={"embedding_norm_epsilon": 1e-5}),
        Layout("timm", _TIMM, _HEAD, attributes={"embedding_norm_epsilon": 1e-5}),
        _TRANSFORMERS_LAYOUT,
        _TRANSFORMERS_LAYOUT.without_prefix(_PREFIX),
    ),
)

_TABLE = ConfigTable(
    "PVTv2",
    {**CONFIG_ARGUMENTS, "sr_ratios": "sr_ratios", "linear_attention": "linear_attention"},
    {**CONFIG_CONSTANTS, "patch_sizes": [7, 3, 3, 3]},
)
register_config("transformers", "pvt_v2", _TABLE)


def _read_timm(config, match):
    return "PVTv2", match[1], {}


register_config("timm", "pvt_v2_(b[0-5]|b2_li)", _read_timm)
