"""Stepwise Patch Merging in the official code."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.weights.key_mapping import Layout, Rule, affine, batch_normalization, normalization
from keras_spm.weights.transforms import DEPTHWISE, GROUPED, LINEAR, POINTWISE

AGGREGATION_RULES = (
    *(
        rule
        for size in (3, 5, 7, 9)
        for rule in affine(f"depthwise_{size}x{size}", f"local_conv_{size}", DEPTHWISE)
    ),
    Rule("grouped_kernel", "proj.0.weight", GROUPED),
    Rule("grouped_bias", "proj.0.bias"),
    *batch_normalization("norm", "proj.1"),
    *affine("projection", "proj.3", POINTWISE),
)

ENHANCEMENT_RULES = (
    *batch_normalization("guide_norm", "gtg.0"),
    *affine("guide_depthwise", "gtg.2", DEPTHWISE),
    *normalization("token_norm", "norm0"),
    Rule("qkv_kernel", "attn.qkv.weight", LINEAR),
    Rule("qkv_bias", "attn.qkv.bias"),
    *normalization("output_norm", "norm1"),
)

MERGING_RULES = (
    *(rule.nested("multi_scale_aggregation", "msa") for rule in AGGREGATION_RULES),
    *(rule.nested("guided_local_enhancement", "gle") for rule in ENHANCEMENT_RULES),
)

register_layouts("MultiScaleAggregation", [Layout("official", AGGREGATION_RULES)])
register_layouts("GuidedLocalEnhancement", [Layout("official", ENHANCEMENT_RULES)])
register_layouts("StepwisePatchMerging", [Layout("official", MERGING_RULES)])
