"""PVT v2 as its official code names it, with its own merging or with SPM."""

from keras_spm.converters.stepwise_patch_merging import IGNORED
from keras_spm.converters.stepwise_patch_merging import MERGING_RULES
from keras_spm.weights.rules import CONVOLUTION
from keras_spm.weights.rules import DEPTHWISE
from keras_spm.weights.rules import LINEAR
from keras_spm.weights.rules import Layout
from keras_spm.weights.rules import affine
from keras_spm.weights.rules import normalization

_BLOCK_RULES = (
    *normalization("attention_norm", "norm1"),
    *affine("attention/query", "attn.q", LINEAR),
    *affine("attention/key_value", "attn.kv", LINEAR),
    *affine("attention/projection", "attn.proj", LINEAR),
    *affine("attention/reduction", "attn.sr", CONVOLUTION),
    *normalization("attention/reduction_norm", "attn.norm"),
    *normalization("mlp_norm", "norm2"),
    *affine("mlp/fc1", "mlp.fc1", LINEAR),
    *affine("mlp/depthwise_3x3", "mlp.dwconv.dwconv", DEPTHWISE),
    *affine("mlp/fc2", "mlp.fc2", LINEAR),
)

_RULES = (
    *affine("stem/projection", "patch_embed1.proj", CONVOLUTION),
    *normalization("stem/norm", "patch_embed1.norm"),
    *affine("stage{stage}/merging/projection", "patch_embed{stage}.proj", CONVOLUTION),
    *normalization("stage{stage}/merging/norm", "patch_embed{stage}.norm"),
    *(rule.under("stage{stage}/merging", "patch_embed{stage}.spm") for rule in MERGING_RULES),
    *(
        rule.under("stage{stage}/block{block}", "block{stage}.{block_index}")
        for rule in _BLOCK_RULES
    ),
    *normalization("stage{stage}/norm", "norm{stage}"),
)

LAYOUTS = (Layout("official", _RULES, head=affine("head", "head", LINEAR), ignored=IGNORED),)
