"""The choice of merging layer between the stages of a backbone."""

from collections.abc import Callable

import keras

from keras_spm.arguments import check_bool
from keras_spm.layers.composite import SequentialLayer
from keras_spm.layers.dense import Dense
from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation
from keras_spm.layers.stepwise_patch_merging import StepwisePatchMerging
from keras_spm.registry import lookup


def make_merging(
    kind: str,
    output_dim: int,
    default_merging: Callable[..., keras.layers.Layer],
    fused: bool,
    dtype: str | keras.DTypePolicy | None,
) -> keras.layers.Layer:
    """Returns the layer named "merging", which halves the map and changes its channels.

    Args:
        kind: `"default"`, the family's own layer; `"spm"`, Stepwise Patch Merging; or, for
            ablation, one of its halves: `"msa"`, Multi-Scale Aggregation to `output_dim`
            and then the family's layer at that width; `"gle"`, a dense layer to
            `output_dim` and then Guided Local Enhancement.
        output_dim: int, channels of the output.
        default_merging: function (output_dim, name, dtype) → layer, the family's own.
        fused: bool, whether batch normalization is folded away, see `keras_spm.fuse`.
        dtype: dtype policy.

    Raises:
        ValueError: for an unknown `kind`, or if `fused` is not a bool.
    """
    check_bool("fused", fused)
    return lookup("merging", kind, MERGINGS)(output_dim, default_merging, fused, dtype)


def _default(output_dim, default_merging, fused, dtype):
    return default_merging(output_dim, name="merging", dtype=dtype)


def _spm(output_dim, default_merging, fused, dtype):
    return StepwisePatchMerging(output_dim, fused=fused, name="merging", dtype=dtype)


def _msa(output_dim, default_merging, fused, dtype):
    aggregation = MultiScaleAggregation(
        output_dim, fused=fused, name="multi_scale_aggregation", dtype=dtype
    )
    embedding = default_merging(output_dim, name="embedding", dtype=dtype)
    return SequentialLayer([aggregation, embedding], name="merging", dtype=dtype)


def _gle(output_dim, default_merging, fused, dtype):
    widening = Dense(output_dim, name="widening", dtype=dtype)
    enhancement = GuidedLocalEnhancement(fused=fused, name="guided_local_enhancement", dtype=dtype)
    return SequentialLayer([widening, enhancement], name="merging", dtype=dtype)


MERGINGS = {"default": _default, "spm": _spm, "msa": _msa, "gle": _gle}
