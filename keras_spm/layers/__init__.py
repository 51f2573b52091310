"""Layers on channels_last maps (batch, height, width, channels), each usable alone."""

from keras_spm.layers.batch_normalization import BatchNormalization
from keras_spm.layers.convolution import Conv2D, DepthwiseConv2D
from keras_spm.layers.dense import Dense
from keras_spm.layers.gated_merging import GatedMerging
from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.layers.mlp import MLP, ConvolutionalMLP
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation
from keras_spm.layers.patch_embedding import OverlappingPatchEmbedding, PatchEmbedding
from keras_spm.layers.patch_merging import PatchMerging
from keras_spm.layers.position_embedding import PositionEmbedding
from keras_spm.layers.spatial_reduction_attention import SpatialReductionAttention
from keras_spm.layers.stage import ClassTokenStage, Stage
from keras_spm.layers.stepwise_patch_merging import StepwisePatchMerging
from keras_spm.layers.transformer_block import DropPath, TransformerBlock
from keras_spm.layers.window_attention import WindowAttention

__all__ = [
    "BatchNormalization",
    "ClassTokenStage",
    "Conv2D",
    "ConvolutionalMLP",
    "Dense",
    "DepthwiseConv2D",
    "DropPath",
    "GatedMerging",
    "GuidedLocalEnhancement",
    "ImageNormalization",
    "LayerNormalization",
    "MLP",
    "MultiScaleAggregation",
    "OverlappingPatchEmbedding",
    "PatchEmbedding",
    "PatchMerging",
    "PositionEmbedding",
    "SpatialReductionAttention",
    "Stage",
    "StepwisePatchMerging",
    "TransformerBlock",
    "WindowAttention",
    "macs",
]
