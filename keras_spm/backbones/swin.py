"""Swin Transformer, optionally with Stepwise Patch Merging.

Liu et al., Swin Transformer, arXiv 2103.14030.
Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.arguments import check_bool, check_integer, check_number
from keras_spm.backbones.merging import make_merging
from keras_spm.backbones.pyramid_backbone import PyramidBackbone
from keras_spm.backbones.stages import make_blocks, per_stage
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.mlp import MLP
from keras_spm.layers.patch_embedding import PatchEmbedding
from keras_spm.layers.patch_merging import PatchMerging
from keras_spm.layers.stage import Stage
from keras_spm.layers.transformer_block import TransformerBlock
from keras_spm.layers.window_attention import WindowAttention

NORM_EPSILON = 1e-5

VARIANTS = {
    # For small images and quick tests; not from the paper, whose section 3.3 has the others.
    "mini": {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)},
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}


class Swin(PyramidBackbone):
    """Swin: attention within windows, shifted in every second block.

    `pyramid_outputs` are the maps of the stages before any normalization, or with
    `pyramid_norms` after a normalization of their own; `output` is the last one after the final
    normalization, and `pooled_output` its mean.

    Args:
        embed_dim: int, channels of stage 1; each later stage has twice as many.
        depths: ints, number of blocks of the stages, usually four.
        num_heads: ints; each divides the channels of its stage.
        window_size: int, height and width of a window.
        mlp_ratio: number, hidden channels of the MLP over the stage's channels.
        drop_path_rate: float in [0, 1), of the last block; the rates of the blocks rise from 0.
        pyramid_norms: bool, whether to build the form for dense tasks of the official code,
            mmdetection, mmsegmentation and transformers: each level of `pyramid_outputs` has a
            layer normalization, the last one in place of the final normalization, and windows
            are shifted on maps of any size.
        merging: `"default"` (a linear map of 2x2 patches), `"spm"`, `"msa"`, `"gle"`
            or `"default+spm"`, see `make_merging`; `None` for the class's own default.
        fused: bool, see `make_merging`.
        dtype, **kwargs: see `PyramidBackbone`.

    Example:

    >>> backbone = keras_spm.Swin.from_preset("tiny", load_weights=False)
    >>> backbone(np.zeros((1, 224, 224, 3))).shape
    (1, 7, 7, 768)
    """

    presets = VARIANTS
    preset_prefix = "swin_"

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        pyramid_norms: bool = False,
        merging: str | None = None,
        fused: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        embed_dim = check_integer("embed_dim", embed_dim)
        stages = per_stage(depths, num_heads=num_heads)
        window_size = check_integer("window_size", window_size)
        mlp_ratio = check_number("mlp_ratio", mlp_ratio, allow_minimum=False)
        pyramid_norms = check_bool("pyramid_norms", pyramid_norms)
        merging = self.default_merging if merging is None else merging
        default_merging = functools.partial(PatchMerging, norm_epsilon=NORM_EPSILON)

        def make_block(stage, block, rate, name):
            attention = WindowAttention(
                num_heads[stage],
                window_size,
                shifted=block % 2 == 1,
                always_shift=pyramid_norms,
                dtype=dtype,
                name="attention",
            )
            mlp = MLP(int(embed_dim * 2**stage * mlp_ratio), dtype=dtype, name="mlp")
            return TransformerBlock(attention, mlp, rate, NORM_EPSILON, dtype=dtype, name=name)

        def make_stage(stage, blocks):
            dim = embed_dim * 2**stage
            return Stage(
                blocks,
                make_merging(merging, dim, default_merging, fused, dtype) if stage else None,
                dtype=dtype,
                name=f"stage{stage + 1}",
            )

        def make_norm(name):
            return LayerNormalization(epsilon=NORM_EPSILON, dtype=dtype, name=name)

        blocks = make_blocks(depths, drop_path_rate, make_block)
        levels = [f"P{number}" for number in range(2, 2 + len(blocks))]
        super().__init__(
            stem=PatchEmbedding(embed_dim, 4, NORM_EPSILON, dtype=dtype, name="stem"),
            stages=[make_stage(*each) for each in enumerate(blocks)],
            final_norm=None if pyramid_norms else make_norm("norm"),
            pyramid_norms={level: make_norm(f"norm_{level}") for level in levels if pyramid_norms},
            config={
                "embed_dim": embed_dim,
                **stages,
                "window_size": window_size,
                "mlp_ratio": mlp_ratio,
                "drop_path_rate": drop_path_rate,
                "pyramid_norms": pyramid_norms,
                "merging": merging,
                "fused": fused,
            },
            dtype=dtype,
            **kwargs,
        )


class SwinSPM(Swin):
    """`Swin` with `merging="spm"` by default."""

    preset_prefix = "swin_spm_"
    default_merging = "spm"
