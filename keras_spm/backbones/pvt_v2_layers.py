"""The layers of PVT v2 and MiT."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.backbones.merging import make_merging
from keras_spm.backbones.stages import make_blocks
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.mlp import ConvolutionalMLP
from keras_spm.layers.patch_embedding import OverlappingPatchEmbedding
from keras_spm.layers.spatial_reduction_attention import SpatialReductionAttention
from keras_spm.layers.stage import Stage
from keras_spm.layers.transformer_block import TransformerBlock


def make_layers(
    embed_dims: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratios: Sequence[float],
    sr_ratios: Sequence[int],
    linear_attention: bool,
    drop_path_rate: float,
    merging: str,
    fused: bool,
    norm_epsilon: float,
    embedding_norm_epsilon: float,
    dtype: str | keras.DTypePolicy | None,
) -> dict[str, Any]:
    """Returns `stem` and `stages` of PVT v2, or of MiT, which differs in its epsilons.

    `norm_epsilon` is that of blocks and of the ends of stages; for the other arguments, see
    `PVTv2`.
    """
    embedding = functools.partial(OverlappingPatchEmbedding, norm_epsilon=embedding_norm_epsilon)
    default_merging = functools.partial(embedding, patch_size=3, strides=2)

    def make_block(stage, block, rate, name):
        attention = SpatialReductionAttention(
            num_heads[stage],
            sr_ratios[stage],
            linear_attention,
            embedding_norm_epsilon,
            dtype=dtype,
            name="attention",
        )
        hidden_dim = int(embed_dims[stage] * mlp_ratios[stage])
        mlp = ConvolutionalMLP(hidden_dim, linear_attention, dtype=dtype, name="mlp")
        return TransformerBlock(attention, mlp, rate, norm_epsilon, dtype=dtype, name=name)

    def make_stage(stage, blocks):
        return Stage(
            blocks,
            make_merging(merging, embed_dims[stage], default_merging, fused, dtype)
            if stage
            else None,
            LayerNormalization(epsilon=norm_epsilon, dtype=dtype, name="norm"),
            dtype=dtype,
            name=f"stage{stage + 1}",
        )

    blocks = make_blocks(depths, drop_path_rate, make_block)
    return {
        "stem": embedding(embed_dims[0], patch_size=7, strides=4, dtype=dtype, name="stem"),
        "stages": [make_stage(*each) for each in enumerate(blocks)],
    }
