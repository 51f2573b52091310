"""The choice of merging layer between the stages of a backbone."""

from collections.abc import Callable

import keras

from keras_spm.arguments import check_bool
from keras_spm.layers.composite import SequentialLayer
from keras_spm.layers.dense import Dense
from keras_spm.layers.gated_merging import GatedMerging
from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation
from keras_spm.layers.stepwise_patch_merging import StepwisePatchMerging
from keras_spm.registry import lookup

# The pretrained merging, and SPM behind a gate.
GATED = "default+spm"
# In the paths of all variables of mergings.
MERGING_PATH = "/merging/"


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
            `output_dim` and then Guided Local Enhancement. `"default+spm"` adds SPM to the
            family's layer behind a gate, see `GatedMerging`.
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


def _default_spm(output_dim, default_merging, fused, dtype):
    default = default_merging(output_dim, name="default", dtype=dtype)
    spm = StepwisePatchMerging(output_dim, fused=fused, name="spm", dtype=dtype)
    return GatedMerging(default, spm, name="merging", dtype=dtype)


MERGINGS = {"default": _default, "spm": _spm, "msa": _msa, "gle": _gle, GATED: _default_spm}


def copy_shared_variables(target: keras.Model, source: keras.Model) -> list[str]:
    """Copies the variables that two backbones or tasks share although their mergings differ.

    The default mergings of `source` are copied to those of a `target` with
    `merging="default+spm"`.

    Returns:
        Paths of the variables of `target` that keep their values: those of its other mergings,
        and those without a counterpart of the same shape.
    """
    values = {variable.path: variable for variable in source.weights}
    has_default = getattr(getattr(source, "backbone", source), "merging", None) == "default"
    kept = []
    for variable in target.weights:
        path = variable.path
        if has_default:
            path = path.replace(f"{MERGING_PATH}default/", MERGING_PATH)
        is_other = MERGING_PATH in variable.path and path == variable.path
        value = None if is_other else values.get(path)
        if value is None or tuple(value.shape) != tuple(variable.shape):
            kept.append(variable.path)
        else:
            # Through NumPy, so that the models share no arrays: JAX may overwrite them in place.
            variable.assign(keras.ops.convert_to_numpy(value))
    return kept
