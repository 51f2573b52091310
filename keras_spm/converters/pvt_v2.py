"""PVT v2 as its official code, timm and transformers name it."""

from keras_spm.converters.stepwise_patch_merging import MERGING_RULES
from keras_spm.weights.rules import CONVOLUTION
from keras_spm.weights.rules import DEPTHWISE
from keras_spm.weights.rules import LINEAR
from keras_spm.weights.rules import Layout
from keras_spm.weights.rules import affine
from keras_spm.weights.rules import normalization
from keras_spm.weights.rules import stacked_linear


def _block(depthwise):
    return (
        *normalization("attention_norm", "norm1"),
        *affine("attention/query", "attn.q", LINEAR),
        *affine("attention/key_value", "attn.kv", LINEAR),
        *affine("attention/projection", "attn.proj", LINEAR),
        *affine("attention/reduction", "attn.sr", CONVOLUTION),
        *normalization("attention/reduction_norm", "attn.norm"),
        *normalization("mlp_norm", "norm2"),
        *affine("mlp/fc1", "mlp.fc1", LINEAR),
        *affine("mlp/depthwise_3x3", depthwise, DEPTHWISE),
        *affine("mlp/fc2", "mlp.fc2", LINEAR),
    )


def _embedding(path, name):
    return (
        *affine(f"{path}/projection", f"{name}.proj", CONVOLUTION),
        *normalization(f"{path}/norm", f"{name}.norm"),
    )


_OFFICIAL = (
    *_embedding("stem", "patch_embed1"),
    *_embedding("stage{stage}/merging", "patch_embed{stage}"),
    *(rule.under("stage{stage}/merging", "patch_embed{stage}.spm") for rule in MERGING_RULES),
    *(
        rule.under("stage{stage}/block{block}", "block{stage}.{block_index}")
        for rule in _block("mlp.dwconv.dwconv")
    ),
    *normalization("stage{stage}/norm", "norm{stage}"),
)

_TIMM = (
    *_embedding("stem", "patch_embed"),
    *_embedding("stage{stage}/merging", "stages.{stage_index}.downsample"),
    *(
        rule.under("stage{stage}/merging", "stages.{stage_index}.downsample")
        for rule in MERGING_RULES
    ),
    *(
        rule.under("stage{stage}/block{block}", "stages.{stage_index}.blocks.{block_index}")
        for rule in _block("mlp.dwconv")
    ),
    *normalization("stage{stage}/norm", "stages.{stage_index}.norm"),
)


def _transformers_embedding(path, name):
    return (
        *affine(f"{path}/projection", f"{name}.proj", CONVOLUTION),
        *normalization(f"{path}/norm", f"{name}.layer_norm"),
    )


_TRANSFORMERS_BLOCK = (
    *normalization("attention_norm", "layer_norm_1"),
    *affine("attention/query", "attention.query", LINEAR),
    *stacked_linear("attention/key_value", ("attention.key", "attention.value")),
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
    *_transformers_embedding("stem", _PREFIX + "encoder.layers.0.patch_embedding"),
    *_transformers_embedding("stage{stage}/merging", f"{_TRANSFORMERS_STAGE}.patch_embedding"),
    *(
        rule.under("stage{stage}/block{block}", f"{_TRANSFORMERS_STAGE}.blocks.{{block_index}}")
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

LAYOUTS = (
    Layout("official", _OFFICIAL, _HEAD, attributes={"embedding_norm_epsilon": 1e-5}),
    Layout("timm", _TIMM, _HEAD, attributes={"embedding_norm_epsilon": 1e-5}),
    _TRANSFORMERS_LAYOUT,
    _TRANSFORMERS_LAYOUT.without_prefix(_PREFIX),
)
