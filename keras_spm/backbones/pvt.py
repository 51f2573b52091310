"""Pyramid Vision Transformer, optionally with Stepwise Patch Merging.

Wang et al., Pyramid Vision Transformer, arXiv 2102.12122.
Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.arguments import check_bool, check_each, check_epsilon, check_integer
from keras_spm.backbones.merging import make_merging
from keras_spm.backbones.pyramid_backbone import PyramidBackbone, spatial_sizes
from keras_spm.backbones.stages import make_blocks, per_stage
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.mlp import MLP
from keras_spm.layers.patch_embedding import PatchEmbedding
from keras_spm.layers.position_embedding import PositionEmbedding
from keras_spm.layers.resizing import ceil_divide
from keras_spm.layers.spatial_reduction_attention import SpatialReductionAttention
from keras_spm.layers.stage import ClassTokenStage, Stage
from keras_spm.layers.transformer_block import TransformerBlock
from keras_spm.types import Shape

NORM_EPSILON = 1e-6
PRETRAIN_IMAGE_SIZE = (224, 224)


def _variant(depths):
    return {
        "embed_dims": (64, 128, 320, 512),
        "depths": depths,
        "num_heads": (1, 2, 5, 8),
        "mlp_ratios": (8, 8, 4, 4),
        "sr_ratios": (8, 4, 2, 1),
    }


VARIANTS = {
    # For small images and quick tests; not from the paper, whose table 1 has the others.
    "mini": {
        "embed_dims": (32, 64, 96, 128),
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 3, 4),
        "mlp_ratios": (4, 4, 4, 4),
        "sr_ratios": (4, 2, 1, 1),
    },
    "tiny": _variant((2, 2, 2, 2)),
    "small": _variant((3, 4, 6, 3)),
    "medium": _variant((3, 4, 18, 3)),
    "large": _variant((3, 8, 27, 3)),
}


class PVT(PyramidBackbone):
    """PVT: patch embedding, position embeddings, spatial-reduction attention, class token.

    `pyramid_outputs` are not normalized. With the class token, `pooled_output` is the token
    and `output` the last map, both after the final normalization. Without it, as for dense
    prediction, there is no final normalization, and `pooled_output` is the mean of P5.

    Args:
        embed_dims: ints, channels of the stages, usually four.
        depths: ints, number of blocks of the stages.
        num_heads: ints; each divides the channels of its stage.
        mlp_ratios: numbers, hidden channels of the MLP over the stage's channels.
        sr_ratios: ints, spatial reduction of keys and values.
        class_token: bool, whether the last stage has a class token; the last of `sr_ratios` must
            be 1 then.
        drop_path_rate: float in [0, 1), of the last block; the rates of the blocks rise from 0.
        merging: `"default"` (a linear map of 2x2 patches), `"spm"`, `"msa"`, `"gle"`
            or `"default+spm"`, see `make_merging`; `None` for the class's own default.
        fused: bool, see `make_merging`.
        embedding_norm_epsilon: float above 0, epsilon of the norms in patch embeddings and
            reductions (1e-5 in the official code, 1e-6 in transformers).
        pretrain_image_size: (height, width) for which the position embeddings are not
            resized; by default that of `image_shape`, or 224x224 if it is open.
        image_shape, data_format, dtype, **kwargs: see `PyramidBackbone`.

    Example:

    >>> backbone = keras_spm.PVT.from_preset("tiny", load_weights=False)
    >>> backbone(np.zeros((1, 224, 224, 3))).shape
    (1, 7, 7, 512)
    """

    presets = VARIANTS
    preset_prefix = "pvt_"

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float],
        sr_ratios: Sequence[int],
        class_token: bool = True,
        drop_path_rate: float = 0.0,
        merging: str | None = None,
        fused: bool = False,
        embedding_norm_epsilon: float = 1e-5,
        pretrain_image_size: tuple[int, int] | None = None,
        image_shape: Shape | None = None,
        data_format: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        stages = per_stage(
            depths, mlp_ratios, embed_dims=embed_dims, num_heads=num_heads, sr_ratios=sr_ratios
        )
        class_token = check_bool("class_token", class_token)
        merging = self.default_merging if merging is None else merging
        embedding_norm_epsilon = check_epsilon("embedding_norm_epsilon", embedding_norm_epsilon)
        if class_token and stages["sr_ratios"][-1] != 1:
            raise ValueError(
                "The last of `sr_ratios` must be 1 with `class_token=True`: a class token has no "
                f"position on a map. Received: sr_ratios={stages['sr_ratios']}"
            )
        if pretrain_image_size is None:
            sizes = spatial_sizes(image_shape, data_format)
            pretrain_image_size = PRETRAIN_IMAGE_SIZE if None in sizes else sizes
        pretrain_image_size = check_each(
            "pretrain_image_size", pretrain_image_size, check_integer, 2
        )
        embedding = functools.partial(PatchEmbedding, norm_epsilon=embedding_norm_epsilon)
        default_merging = functools.partial(embedding, patch_size=2)

        def make_block(stage, block, rate, name):
            attention = SpatialReductionAttention(
                num_heads[stage],
                sr_ratios[stage],
                norm_epsilon=embedding_norm_epsilon,
                dtype=dtype,
                name="attention",
            )
            hidden_dim = int(embed_dims[stage] * mlp_ratios[stage])
            mlp = MLP(hidden_dim, dtype=dtype, name="mlp")
            return TransformerBlock(attention, mlp, rate, NORM_EPSILON, dtype=dtype, name=name)

        def make_stage(stage, blocks):
            grid = [ceil_divide(size, 4 * 2**stage) for size in pretrain_image_size]
            stage_class = ClassTokenStage if class_token and stage == len(depths) - 1 else Stage
            return stage_class(
                blocks,
                make_merging(merging, embed_dims[stage], default_merging, fused, dtype)
                if stage
                else None,
                position_embedding=PositionEmbedding(grid, dtype=dtype, name="position_embedding"),
                dtype=dtype,
                name=f"stage{stage + 1}",
            )

        blocks = make_blocks(depths, drop_path_rate, make_block)
        final_norm = LayerNormalization(epsilon=NORM_EPSILON, dtype=dtype, name="norm")
        super().__init__(
            stem=embedding(embed_dims[0], patch_size=4, dtype=dtype, name="stem"),
            stages=[make_stage(*each) for each in enumerate(blocks)],
            final_norm=final_norm if class_token else None,
            config={
                **stages,
                "class_token": class_token,
                "drop_path_rate": drop_path_rate,
                "merging": merging,
                "fused": fused,
                "embedding_norm_epsilon": embedding_norm_epsilon,
                "pretrain_image_size": pretrain_image_size,
            },
            image_shape=image_shape,
            data_format=data_format,
            dtype=dtype,
            **kwargs,
        )


class PVTSPM(PVT):
    """`PVT` with `merging="spm"` by default."""

    preset_prefix = "pvt_spm_"
    default_merging = "spm"
