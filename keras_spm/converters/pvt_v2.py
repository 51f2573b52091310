"""PVT v2 in the official code, timm, transformers and mmdetection."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.converters.hf_config import ConfigTable, register_config
from keras_spm.converters.pvt import (
    CONFIG_ARGUMENTS,
    CONFIG_CONSTANTS,
    MMDET_EMBEDDINGS,
    OFFICIAL_BLOCK,
    OFFICIAL_EMBEDDINGS,
    STEM_RULE,
    embedding,
    mmdet_block,
    transformers_block,
)
from keras_spm.converters.stepwise_patch_merging import MERGING_RULES
from keras_spm.weights.key_mapping import OWN_FORMAT, Layout, affine, nested, normalization
from keras_spm.weights.transforms import DEPTHWISE, LINEAR, STEM_CONVOLUTION


def _blocks(rules, depthwise, name):
    rules = (*rules, *affine("mlp/depthwise_3x3", depthwise, DEPTHWISE))
    return nested(rules, "stage{stage}/block{block}", name)


_OFFICIAL = (
    *OFFICIAL_EMBEDDINGS,
    *_blocks(OFFICIAL_BLOCK, "mlp.dwconv.dwconv", "block{stage}.{block_index}"),
    *normalization("stage{stage}/norm", "norm{stage}"),
)

_TIMM = (
    *embedding("stem", "patch_embed", "proj", "norm", STEM_CONVOLUTION),
    *embedding("stage{stage}/merging", "stages.{stage_index}.downsample", "proj", "norm"),
    *nested(MERGING_RULES, "stage{stage}/merging", "stages.{stage_index}.downsample"),
    *_blocks(OFFICIAL_BLOCK, "mlp.dwconv", "stages.{stage_index}.blocks.{block_index}"),
    *normalization("stage{stage}/norm", "stages.{stage_index}.norm"),
)

_PREFIX = "pvt_v2."
_TRANSFORMERS_STAGE = _PREFIX + "encoder.layers.{stage_index}"

_TRANSFORMERS = (
    *embedding(
        *("stem", f"{_PREFIX}encoder.layers.0.patch_embedding", "proj", "layer_norm"),
        STEM_CONVOLUTION,
    ),
    *embedding(
        "stage{stage}/merging", f"{_TRANSFORMERS_STAGE}.patch_embedding", "proj", "layer_norm"
    ),
    *_blocks(
        transformers_block("attention", "attention.proj", "spatial_reduction"),
        "mlp.dwconv.dwconv",
        _TRANSFORMERS_STAGE + ".blocks.{block_index}",
    ),
    *normalization("stage{stage}/norm", f"{_TRANSFORMERS_STAGE}.layer_norm"),
)

_MMDET = (
    *MMDET_EMBEDDINGS,
    *_blocks(mmdet_block("4"), "ffn.layers.1", "layers.{stage_index}.1.{block_index}"),
    *normalization("stage{stage}/norm", "layers.{stage_index}.2"),
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
        Layout("mmdet", _MMDET, attributes={"embedding_norm_epsilon": 1e-6}, headless=True),
    ),
    Layout(OWN_FORMAT, (STEM_RULE,)),
)

_TABLE = ConfigTable(
    "PVTv2",
    {**CONFIG_ARGUMENTS, "sr_ratios": "sr_ratios", "linear_attention": "linear_attention"},
    {**CONFIG_CONSTANTS, "patch_sizes": [7, 3, 3, 3]},
)
register_config("transformers", "pvt_v2", _TABLE)
register_config("timm", "pvt_v2_(b[0-5]|b2_li)", lambda config, match: ("PVTv2", match[1], {}))
