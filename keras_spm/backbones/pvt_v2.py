"""Pyramid Vision Transformer v2, optionally with Stepwise Patch Merging.

Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer, arXiv 2106.13797.
Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.arguments import check_bool, check_epsilon
from keras_spm.backbones.pvt_v2_layers import make_layers
from keras_spm.backbones.pyramid_backbone import PyramidBackbone
from keras_spm.backbones.stages import per_stage

NORM_EPSILON = 1e-6


def _variant(embed_dims, depths, mlp_ratios=(8, 8, 4, 4), linear_attention=False, **rest):
    return {
        "embed_dims": embed_dims,
        "depths": depths,
        "num_heads": (1, 2, 5, 8),
        "mlp_ratios": mlp_ratios,
        "sr_ratios": (8, 4, 2, 1),
        "linear_attention": linear_attention,
        **rest,
    }


_WIDE = (64, 128, 320, 512)

VARIANTS = {
    # For small images and quick tests; not from the paper, whose table 1 has the others.
    "mini": _variant(
        (32, 64, 96, 128),
        (1, 1, 2, 1),
        (4, 4, 4, 4),
        num_heads=(1, 2, 3, 4),
        sr_ratios=(4, 2, 1, 1),
    ),
    "b0": _variant((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": _variant(_WIDE, (2, 2, 2, 2)),
    "b2": _variant(_WIDE, (3, 4, 6, 3)),
    "b2_li": _variant(_WIDE, (3, 4, 6, 3), linear_attention=True),
    "b3": _variant(_WIDE, (3, 4, 18, 3)),
    "b4": _variant(_WIDE, (3, 8, 27, 3)),
    "b5": _variant(_WIDE, (3, 6, 40, 3), (4, 4, 4, 4)),
}


class PVTv2(PyramidBackbone):
    """PVT v2: overlapping patch embedding, spatial-reduction attention, convolutional MLP.

    `pyramid_outputs` are the normalized maps of the stages; `pooled_output` is the
    mean of the last one.

    Args:
        embed_dims: ints, channels of the stages, usually four.
        depths: ints, number of blocks of the stages.
        num_heads: ints; each divides the channels of its stage.
        mlp_ratios: numbers, hidden channels of the MLP over the stage's channels.
        sr_ratios: ints, spatial reduction of keys and values.
        linear_attention: bool, whether keys and values are pooled to 7x7 (`_li` variants).
        drop_path_rate: float in [0, 1), of the last block; the rates of the blocks rise from 0.
        merging: `"default"` (a strided 3x3 convolution), `"spm"`, `"msa"`, `"gle"`
            or `"default+spm"`, see `make_merging`; `None` for the class's own default.
        fused: bool, see `make_merging`.
        embedding_norm_epsilon: float above 0, epsilon of the norms in patch embeddings and
            reductions (1e-5 in the official code and timm, 1e-6 in transformers).
        dtype, **kwargs: see `PyramidBackbone`.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("b0", load_weights=False)
    >>> backbone(np.zeros((1, 224, 224, 3))).shape
    (1, 7, 7, 256)
    """

    presets = VARIANTS
    preset_prefix = "pvt_v2_"

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float],
        sr_ratios: Sequence[int],
        linear_attention: bool = False,
        drop_path_rate: float = 0.0,
        merging: str | None = None,
        fused: bool = False,
        embedding_norm_epsilon: float = 1e-5,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        stages = per_stage(
            depths, mlp_ratios, embed_dims=embed_dims, num_heads=num_heads, sr_ratios=sr_ratios
        )
        linear_attention = check_bool("linear_attention", linear_attention)
        merging = self.default_merging if merging is None else merging
        embedding_norm_epsilon = check_epsilon("embedding_norm_epsilon", embedding_norm_epsilon)
        super().__init__(
            **make_layers(
                embed_dims,
                depths,
                num_heads,
                mlp_ratios,
                sr_ratios,
                linear_attention,
                drop_path_rate,
                merging,
                fused,
                NORM_EPSILON,
                embedding_norm_epsilon,
                dtype,
            ),
            config={
                **stages,
                "linear_attention": linear_attention,
                "drop_path_rate": drop_path_rate,
                "merging": merging,
                "fused": fused,
                "embedding_norm_epsilon": embedding_norm_epsilon,
            },
            dtype=dtype,
            **kwargs,
        )


class PVTv2SPM(PVTv2):
    """`PVTv2` with `merging="spm"` by default."""

    preset_prefix = "pvt_v2_spm_"
    default_merging = "spm"
