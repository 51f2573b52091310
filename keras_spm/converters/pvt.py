"""PVT in the official code, the code of Stepwise Patch Merging, transformers and mmdetection."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.converters.hf_config import ConfigTable, register_config
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
    CLASS_AND_POSITIONS,
    CONVOLUTION,
    GRID,
    IDENTITY,
    LINEAR,
    POINTWISE,
    POSITIONS,
    STEM_CONVOLUTION,
    STEM_KERNEL,
    TOKEN,
    UNUSED_CLASS_AND_POSITIONS,
    Transform,
    split,
)

# Of the first convolution in this package's files.
STEM_RULE = same_name("stem/projection/kernel", STEM_KERNEL)


def _positions(name, last_name, last_without_token):
    """Returns the rules of the position embeddings; stage 4 has a row for the class token."""
    path = "position_embedding/embedding"
    return (
        Rule((f"stage4/{path}", "stage4/class_position"), last_name, CLASS_AND_POSITIONS),
        Rule(f"stage4/{path}", last_name, last_without_token),
        Rule(f"stage{{stage}}/{path}", name, POSITIONS),
    )


def embedding(
    path: str, name: str, projection: str, norm: str, convolution: Transform = CONVOLUTION
) -> tuple[Rule, ...]:
    """Returns the rules of a patch embedding: a convolution and its normalization."""
    return (
        *affine(f"{path}/projection", f"{name}.{projection}", convolution),
        *normalization(f"{path}/norm", f"{name}.{norm}"),
    )


OFFICIAL_BLOCK = (
    *normalization("attention_norm", "norm1"),
    *affine("attention/query", "attn.q", LINEAR),
    *affine("attention/key_value", "attn.kv", LINEAR),
    *affine("attention/projection", "attn.proj", LINEAR),
    *affine("attention/reduction", "attn.sr", CONVOLUTION),
    *normalization("attention/reduction_norm", "attn.norm"),
    *normalization("mlp_norm", "norm2"),
    *affine("mlp/fc1", "mlp.fc1", LINEAR),
    *affine("mlp/fc2", "mlp.fc2", LINEAR),
)

# Also the names of PVT v2's official code.
OFFICIAL_EMBEDDINGS = (
    *embedding("stem", "patch_embed1", "proj", "norm", STEM_CONVOLUTION),
    *embedding("stage{stage}/merging", "patch_embed{stage}", "proj", "norm"),
    *nested(MERGING_RULES, "stage{stage}/merging", "patch_embed{stage}.spm"),
)

_OFFICIAL = (
    *OFFICIAL_EMBEDDINGS,
    *_positions("pos_embed{stage}", "pos_embed4", UNUSED_CLASS_AND_POSITIONS),
    Rule("stage4/class_token", "cls_token", TOKEN),
    *nested(OFFICIAL_BLOCK, "stage{stage}/block{block}", "block{stage}.{block_index}"),
    *normalization("norm", "norm"),
)


def transformers_block(attention: str, projection: str, reduction: str) -> tuple[Rule, ...]:
    """Returns the rules of a block of transformers' PVT or PVT v2, by names of its layers."""
    return (
        *normalization("attention_norm", "layer_norm_1"),
        *affine("attention/query", f"{attention}.query", LINEAR),
        *stacked_dense("attention/key_value", (f"{attention}.key", f"{attention}.value")),
        *affine("attention/projection", projection, LINEAR),
        *affine("attention/reduction", f"{attention}.{reduction}", CONVOLUTION),
        *normalization("attention/reduction_norm", f"{attention}.layer_norm"),
        *normalization("mlp_norm", "layer_norm_2"),
        *affine("mlp/fc1", "mlp.dense1", LINEAR),
        *affine("mlp/fc2", "mlp.dense2", LINEAR),
    )


_PREFIX = "pvt."
_TRANSFORMERS_BLOCK = transformers_block(
    "attention.self", "attention.output.dense", "sequence_reduction"
)
_STAGE_EMBEDDINGS = _PREFIX + "encoder.patch_embeddings"
_STAGE_EMBEDDING = _STAGE_EMBEDDINGS + ".{stage_index}"
_LAST_EMBEDDING = _STAGE_EMBEDDINGS + ".3"
_NORM = _PREFIX + "encoder.layer_norm"

_TRANSFORMERS = (
    *embedding("stem", f"{_STAGE_EMBEDDINGS}.0", "projection", "layer_norm", STEM_CONVOLUTION),
    *embedding("stage{stage}/merging", _STAGE_EMBEDDING, "projection", "layer_norm"),
    *_positions(
        f"{_STAGE_EMBEDDING}.position_embeddings",
        f"{_LAST_EMBEDDING}.position_embeddings",
        # transformers has no model without the class token.
        UNUSED_CLASS_AND_POSITIONS._replace(to_torch=None),
    ),
    Rule("stage4/class_token", f"{_LAST_EMBEDDING}.cls_token", TOKEN),
    *nested(
        _TRANSFORMERS_BLOCK,
        "stage{stage}/block{block}",
        _PREFIX + "encoder.block.{stage_index}.{block_index}",
    ),
    *normalization("norm", _NORM),
)

MMDET_EMBEDDINGS = (
    *embedding("stem", "layers.0.0", "projection", "norm", STEM_CONVOLUTION),
    *embedding("stage{stage}/merging", "layers.{stage_index}.0", "projection", "norm"),
)


def mmdet_block(fc2: str) -> tuple[Rule, ...]:
    """Returns the rules of a block of mmdetection's PVT or PVT v2; `fc2` is the name of a layer."""
    query_and_key_value = ("attention/query", "attention/key_value")
    kernels, biases = (
        tuple(f"{path}/{name}" for path in query_and_key_value) for name in ("kernel", "bias")
    )
    return (
        *normalization("attention_norm", "norm1"),
        Rule(kernels, "attn.attn.in_proj_weight", split(LINEAR)),
        Rule(biases, "attn.attn.in_proj_bias", split(IDENTITY)),
        *affine("attention/projection", "attn.attn.out_proj", LINEAR),
        *affine("attention/reduction", "attn.sr", CONVOLUTION),
        *normalization("attention/reduction_norm", "attn.norm"),
        *normalization("mlp_norm", "norm2"),
        *affine("mlp/fc1", "ffn.layers.0", POINTWISE),
        *affine("mlp/fc2", f"ffn.layers.{fc2}", POINTWISE),
    )


_MMDET = (
    *MMDET_EMBEDDINGS,
    Rule(
        "stage{stage}/position_embedding/embedding", "layers.{stage_index}.1.0.pos_embed", POSITIONS
    ),
    # The position embedding has the number 0.
    *nested(mmdet_block("3"), "stage{stage}/block{block}", "layers.{stage_index}.1.{block}"),
)

_TRANSFORMERS_LAYOUT = Layout(
    "transformers",
    _TRANSFORMERS,
    head=affine("head", "classifier", LINEAR),
    optional=(f"{_LAST_EMBEDDING}.cls_token", f"{_NORM}.weight", f"{_NORM}.bias"),
    attributes={"embedding_norm_epsilon": 1e-6},
)

_OFFICIAL_LAYOUT = Layout(
    "official",
    _OFFICIAL,
    head=affine("head", "head", LINEAR),
    optional=("cls_token", "norm.weight", "norm.bias"),
    attributes={"embedding_norm_epsilon": 1e-5},
)
_OWN_LAYOUT = Layout(
    OWN_FORMAT,
    (STEM_RULE, same_name("stage{stage}/position_embedding/embedding", GRID)),
    # A PVT without class token has none of these.
    optional=("stage4/class_token", "stage4/class_position", "norm/gamma", "norm/beta"),
)
register_layouts(
    "PVT",
    (
        _OFFICIAL_LAYOUT,
        _TRANSFORMERS_LAYOUT,
        _TRANSFORMERS_LAYOUT.without_prefix(_PREFIX),
        Layout(
            "mmdet",
            _MMDET,
            attributes={"embedding_norm_epsilon": 1e-6, "class_token": False},
            headless=True,
        ),
    ),
    _OWN_LAYOUT,
)

# Also keys of PVT v2's configuration.
CONFIG_ARGUMENTS = {
    "embed_dims": "hidden_sizes",
    "depths": "depths",
    "num_heads": "num_attention_heads",
    "mlp_ratios": "mlp_ratios",
    "embedding_norm_epsilon": "layer_norm_eps",
}
CONFIG_CONSTANTS = {
    "strides": [4, 2, 2, 2],
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}
_TABLE = ConfigTable(
    "PVT",
    {**CONFIG_ARGUMENTS, "sr_ratios": "sequence_reduction_ratios"},
    {**CONFIG_CONSTANTS, "patch_sizes": [4, 2, 2, 2]},
)


def _read_transformers(config, match):
    class_name, variant, arguments = _TABLE(config, match)
    size = config.get("image_size", 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    return class_name, variant, {**arguments, "pretrain_image_size": size}


register_config("transformers", "pvt", _read_transformers)
