"""MiT in transformers, as the encoder of SegFormer."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.converters.hf_config import ConfigTable, register_config
from keras_spm.converters.pvt import STEM_RULE, embedding, transformers_block
from keras_spm.weights.key_mapping import OWN_FORMAT, Layout, affine, nested, normalization
from keras_spm.weights.transforms import DEPTHWISE, LINEAR, STEM_CONVOLUTION

_PREFIX = "segformer."
_ENCODER = f"{_PREFIX}encoder"

_BLOCK = (
    *transformers_block("attention.self", "attention.output.dense", "sr"),
    *affine("mlp/depthwise_3x3", "mlp.dwconv.dwconv", DEPTHWISE),
)
_RULES = (
    *embedding(*("stem", f"{_ENCODER}.patch_embeddings.0", "proj", "layer_norm"), STEM_CONVOLUTION),
    *embedding(
        *("stage{stage}/merging", _ENCODER + ".patch_embeddings.{stage_index}"),
        *("proj", "layer_norm"),
    ),
    *nested(_BLOCK, "stage{stage}/block{block}", _ENCODER + ".block.{stage_index}.{block_index}"),
    *normalization("stage{stage}/norm", _ENCODER + ".layer_norm.{stage_index}"),
)

# All norms of that code have PyTorch's epsilon, whatever `layer_norm_eps` says.
_LAYOUT = Layout(
    "transformers",
    _RULES,
    head=affine("head", "classifier", LINEAR),
    attributes={"norm_epsilon": 1e-5},
)
register_layouts(
    "MiT", (_LAYOUT, _LAYOUT.without_prefix(_PREFIX)), Layout(OWN_FORMAT, (STEM_RULE,))
)

_ARGUMENTS = {
    "embed_dims": "hidden_sizes",
    "depths": "depths",
    "num_heads": "num_attention_heads",
    "mlp_ratios": "mlp_ratios",
    "sr_ratios": "sr_ratios",
}
_CONSTANTS = {"patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "hidden_act": "gelu"}
register_config("transformers", "segformer", ConfigTable("MiT", _ARGUMENTS, _CONSTANTS))
