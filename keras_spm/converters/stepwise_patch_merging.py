"""Stepwise Patch Merging in the official code."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.weights.key_mapping import (
    Layout,
    Rule,
    affine,
    batch_normalization,
    nested,
    normalization,
)
from keras_spm.weights.transforms import DEPTHWISE, GROUPED, LINEAR, POINTWISE

AGGREGATION_RULES = (
    *affine("depthwise_3x3", "local_conv_3", DEPTHWISE),
    *affine("depthwise_5x5", "local_conv_5", DEPTHWISE),
    *affine("depthwise_7x7", "local_conv_7", DEPTHWISE),
    *affine("depthwise_9x9", "local_conv_9", DEPTHWISE),
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
    *nested(AGGREGATION_RULES, "multi_scale_aggregation", "msa"),
    *nested(ENHANCEMENT_RULES, "guided_local_enhancement", "gle"),
)

register_layouts("MultiScaleAggregation", [Layout("official", AGGREGATION_RULES)])
register_layouts("GuidedLocalEnhancement", [Layout("official", ENHANCEMENT_RULES)])
register_layouts("StepwisePatchMerging", [Layout("official", MERGING_RULES)])
