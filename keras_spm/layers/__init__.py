"""Layers on channels_last maps (batch, height, width, channels), each usable alone."""

from keras_spm.layers.batch_normalization import BatchNormalization
from keras_spm.layers.depthwise_convolution import DepthwiseConv2D
from keras_spm.layers.drop_path import DropPath
from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.mlp import ConvolutionalMLP
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation
from keras_spm.layers.multiply_adds import multiply_adds
from keras_spm.layers.patch_embedding import OverlappingPatchEmbedding
from keras_spm.layers.spatial_reduction_attention import SpatialReductionAttention
from keras_spm.layers.stage import Stage
from keras_spm.layers.stepwise_patch_merging import StepwisePatchMerging
from keras_spm.layers.transformer_block import TransformerBlock

__all__ = [
    "BatchNormalization",
    "ConvolutionalMLP",
    "DepthwiseConv2D",
    "DropPath",
    "GuidedLocalEnhancement",
    "ImageNormalization",
    "MultiScaleAggregation",
    "OverlappingPatchEmbedding",
    "SpatialReductionAttention",
    "Stage",
    "StepwisePatchMerging",
    "TransformerBlock",
    "multiply_adds",
]
