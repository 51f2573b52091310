"""Swin in the official code, timm, transformers and mmdetection."""

import dataclasses
import re

import keras

from keras_spm.converters.conversion import register_layouts
from keras_spm.converters.hf_config import ConfigTable, register_config
from keras_spm.converters.pvt import STEM_RULE
from keras_spm.converters.stepwise_patch_merging import MERGING_RULES
from keras_spm.weights.key_mapping import (
    OWN_FORMAT,
    Layout,
    Rule,
    affine,
    nested,
    normalization,
    same_name,
    stacked_dense,
)
from keras_spm.weights.transforms import (
    BIAS_TABLE,
    LINEAR,
    STEM_CONVOLUTION,
    UNFOLDED,
    UNFOLDED_LINEAR,
)

_BLOCK = (
    *normalization("attention_norm", "norm1"),
    *affine("attention/qkv", "attn.qkv", LINEAR),
    Rule("attention/relative_position_bias_table", "attn.relative_position_bias_table", BIAS_TABLE),
    *affine("attention/projection", "attn.proj", LINEAR),
    *normalization("mlp_norm", "norm2"),
    *affine("mlp/fc1", "mlp.fc1", LINEAR),
    *affine("mlp/fc2", "mlp.fc2", LINEAR),
)


_PATCH_MERGING = (
    *normalization("norm", "norm"),
    Rule("reduction/kernel", "reduction.weight", LINEAR),
)


def _rules(merging):
    blocks = "layers.{stage_index}.blocks.{block_index}"
    return (
        *affine("stem/projection", "patch_embed.proj", STEM_CONVOLUTION),
        *normalization("stem/norm", "patch_embed.norm"),
        *nested((*_PATCH_MERGING, *MERGING_RULES), "stage{stage}/merging", merging),
        *nested(_BLOCK, "stage{stage}/block{block}", blocks),
        *normalization("norm", "norm"),
    )


def _official_buffers(backbone):
    """Returns the index of each block's bias table, and the masks of shifted blocks.

    The masks are for one image size: that of the backbone, or if it takes any size, the one
    at which the last map is a single window, as in the official configurations.
    """
    window = backbone.window_size
    sizes = [window * 32 if size is None else size for size in backbone.spatial_sizes]
    buffers = {}
    for number, stage in enumerate(backbone.stages):
        height, width = (size // 4 // 2**number for size in sizes)
        for index, block in enumerate(stage.blocks):
            name, attention = f"layers.{number}.blocks.{index}", block.attention
            table_index = keras.ops.convert_to_numpy(attention.relative_position_index())
            buffers[f"{name}.attn.relative_position_index"] = table_index.astype("int64")
            # The official dense models compute the masks anew.
            if attention.shifted and min(height, width) > window and not backbone.pyramid_norms:
                mask = attention.shift_mask(height, width, window // 2)
                buffers[f"{name}.attn_mask"] = keras.ops.convert_to_numpy(mask)
    return buffers


_TRANSFORMERS_BLOCK = (
    *normalization("attention_norm", "layernorm_before"),
    *stacked_dense(
        "attention/qkv", ("attention.self.query", "attention.self.key", "attention.self.value")
    ),
    Rule(
        "attention/relative_position_bias_table",
        "attention.self.relative_position_bias_table",
        BIAS_TABLE,
    ),
    *affine("attention/projection", "attention.output.dense", LINEAR),
    *normalization("mlp_norm", "layernorm_after"),
    *affine("mlp/fc1", "intermediate.dense", LINEAR),
    *affine("mlp/fc2", "output.dense", LINEAR),
)

_PREFIX = "swin."
_TRANSFORMERS = (
    *affine(
        "stem/projection", f"{_PREFIX}embeddings.patch_embeddings.projection", STEM_CONVOLUTION
    ),
    *normalization("stem/norm", f"{_PREFIX}embeddings.norm"),
    *nested(
        _PATCH_MERGING, "stage{stage}/merging", _PREFIX + "encoder.layers.{stage_before}.downsample"
    ),
    *nested(
        _TRANSFORMERS_BLOCK,
        "stage{stage}/block{block}",
        _PREFIX + "encoder.layers.{stage_index}.blocks.{block_index}",
    ),
    *normalization("norm", f"{_PREFIX}layernorm"),
    *normalization("norm_P{level}", "hidden_states_norms.stage{level_index}"),
)

# From the names in transformers' files to the names in the memory of its version 5.
_IN_MEMORY = (
    (r"attention\.self\.(query|key|value)\b", lambda match: f"attention.{match[1][0]}_proj"),
    (r"attention\.self\.relative", "attention.relative_position_bias.relative"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
)


def _in_memory(name):
    for pattern, replacement in _IN_MEMORY:
        name = re.sub(pattern, replacement, name)
    return name


_TRANSFORMERS_LAYOUT = Layout(
    "transformers", _TRANSFORMERS, head=affine("head", "classifier", LINEAR)
)
_TRANSFORMERS_5_LAYOUT = dataclasses.replace(
    _TRANSFORMERS_LAYOUT,
    name="transformers_5",
    rules=tuple(rule.renamed(_in_memory) for rule in _TRANSFORMERS),
)

# Level P2 is the output of stage 0.
_PYRAMID_NORMS = normalization("norm_P{level}", "norm{level_before}")
_OFFICIAL_LAYOUT = Layout(
    "official",
    _rules("layers.{stage_before}.downsample"),
    head=affine("head", "head", LINEAR),
    buffers=_official_buffers,
    added=_PYRAMID_NORMS,
    replaced=("norm.weight", "norm.bias"),
)
_TIMM_LAYOUT = Layout(
    "timm", _rules("layers.{stage_index}.downsample"), head=affine("head", "head.fc", LINEAR)
)

# mmdetection and mmsegmentation have the same code. Their mergings unfold the windows.
_MMDET_BLOCK = (
    *normalization("attention_norm", "norm1"),
    *affine("attention/qkv", "attn.w_msa.qkv", LINEAR),
    Rule(
        "attention/relative_position_bias_table",
        "attn.w_msa.relative_position_bias_table",
        BIAS_TABLE,
    ),
    *affine("attention/projection", "attn.w_msa.proj", LINEAR),
    *normalization("mlp_norm", "norm2"),
    *affine("mlp/fc1", "ffn.layers.0.0", LINEAR),
    *affine("mlp/fc2", "ffn.layers.1", LINEAR),
)
_MMDET_MERGING = (
    Rule("norm/gamma", "norm.weight", UNFOLDED),
    Rule("norm/beta", "norm.bias", UNFOLDED),
    Rule("reduction/kernel", "reduction.weight", UNFOLDED_LINEAR),
)


def _mmdet_buffers(backbone):
    """Returns the index of each block's bias table."""
    index = "attn.relative_position_index"
    return {
        name.replace("layers", "stages").replace(index, f"attn.w_msa.{index[5:]}"): array
        for name, array in _official_buffers(backbone).items()
        if name.endswith(index)
    }


_MMDET_LAYOUT = Layout(
    "mmdet",
    (
        *affine("stem/projection", "patch_embed.projection", STEM_CONVOLUTION),
        *normalization("stem/norm", "patch_embed.norm"),
        *nested(_MMDET_MERGING, "stage{stage}/merging", "stages.{stage_before}.downsample"),
        *nested(
            _MMDET_BLOCK, "stage{stage}/block{block}", "stages.{stage_index}.blocks.{block_index}"
        ),
        *_PYRAMID_NORMS,
    ),
    attributes={"pyramid_norms": True},
    buffers=_mmdet_buffers,
    headless=True,
)
# Of the final norm, which a `SwinBackbone` has but does not use.
_UNUSED_BY_BACKBONES = tuple(
    f"{prefix}layernorm.{name}" for prefix in ("", _PREFIX) for name in ("weight", "bias")
)
_BIAS_TABLES = "stage{stage}/block{block}/attention/relative_position_bias_table"

register_layouts(
    "Swin",
    (
        _OFFICIAL_LAYOUT,
        _TIMM_LAYOUT,
        _TRANSFORMERS_LAYOUT,
        dataclasses.replace(
            _TRANSFORMERS_LAYOUT.without_prefix(_PREFIX), optional=_UNUSED_BY_BACKBONES
        ),
        _TRANSFORMERS_5_LAYOUT,
        _TRANSFORMERS_5_LAYOUT.without_prefix(_PREFIX),
        _MMDET_LAYOUT,
    ),
    Layout(
        OWN_FORMAT,
        (STEM_RULE, same_name(_BIAS_TABLES, BIAS_TABLE)),
        added=(same_name("norm_P{level}/gamma"), same_name("norm_P{level}/beta")),
        replaced=("norm/gamma", "norm/beta"),
    ),
)

_NAMES = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")
_CONSTANTS = {
    "patch_size": 4,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_absolute_embeddings": False,
}
_TABLE = ConfigTable("Swin", {name: name for name in _NAMES}, _CONSTANTS)
register_config("transformers", "swin", _TABLE)
register_config(
    "timm",
    r"swin_(tiny|small|base)_patch4_window(\d+)_\d+",
    lambda config, match: ("Swin", match[1], {"window_size": int(match[2])}),
)


def _read_upernet(config, match):
    """Reads the backbone of transformers' UPerNet, whose outputs have norms."""
    backbone = config["backbone_config"]
    levels = ["stage1", "stage2", "stage3", "stage4"]
    if backbone["model_type"] != "swin" or backbone.get("out_features", levels) != levels:
        raise ValueError(
            f"`backbone_config` must be of a Swin with the outputs {levels}. Received: "
            f"model_type={backbone['model_type']}, out_features={backbone.get('out_features')}"
        )
    class_name, variant, arguments = _TABLE(backbone, match)
    return class_name, variant, {**arguments, "pyramid_norms": True}


register_config("transformers", "upernet", _read_upernet)
