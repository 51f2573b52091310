"""Weights between PyTorch code bases and ours: one rule table per family and layout."""

from keras_spm.converters import pvt_v2
from keras_spm.converters import stepwise_patch_merging
from keras_spm.weights import ledger
from keras_spm.weights.errors import MismatchError
from keras_spm.weights.formats import read_arrays

# By class name, so that a subclass is known as what it derives from.
_LAYOUTS = {
    "PVTv2": pvt_v2.LAYOUTS,
    "StepwisePatchMerging": stepwise_patch_merging.MERGING_LAYOUTS,
    "MultiScaleAggregation": stepwise_patch_merging.AGGREGATION_LAYOUTS,
    "GuidedLocalEnhancement": stepwise_patch_merging.ENHANCEMENT_LAYOUTS,
}


def load_torch_weights(model_or_layer, source, layout="auto"):
    """Loads weights of a PyTorch implementation, all of them or none.

    Every variable is assigned exactly once and every tensor of the source is used, a
    derived buffer, or the head of a classifier that the model does not have. A head for
    another number of classes stays fresh. All is checked before the first assignment.

    Args:
        model_or_layer: a built backbone, a task, or a layer of the SPM family.
        source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, or a mapping of
            names to arrays. Half precision is widened exactly.
        layout: `"official"` for the papers' own code, or `"auto"` to tell from the
            names.

    Returns:
        A `keras_spm.weights.LoadReport`; print it to read what was done.

    Raises:
        keras_spm.weights.FormatError: where the source cannot be read.
        keras_spm.weights.MismatchError: where names, shapes or values do not fit; the
            message lists them and the model is unchanged.
        FileNotFoundError: for a path without a file.
        TypeError, ValueError: for a model without rules, an unknown layout or a model
            that is not built.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("b1", load_weights=False)
    >>> report = keras_spm.load_torch_weights(backbone, "pvt_v2_b1.pth")
    """
    if not model_or_layer.built:
        raise ValueError(f"{model_or_layer.name!r} has no variables yet: build or call it first.")
    layouts = {candidate.name: candidate for candidate in _layouts(model_or_layer)}
    if layout != "auto" and layout not in layouts:
        raise ValueError(
            f"`layout` must be 'auto' or one of {sorted(layouts)}. Received: layout={layout!r}"
        )
    variables = _variables(model_or_layer)
    arrays, description = read_arrays(source)
    if layout == "auto":
        found = {name: ledger.overlap(variables, arrays, layouts[name]) for name in layouts}
        layout = max(found, key=found.get)
        if not found[layout]:
            raise MismatchError(
                f"{description}: no known layout of {type(model_or_layer).__name__} "
                f"({', '.join(layouts)}) names its tensors like {list(arrays)[:4]}."
            )
    return ledger.load(variables, arrays, layouts[layout], description)


def _layouts(model_or_layer):
    # A task is known by its backbone.
    target = getattr(model_or_layer, "backbone", model_or_layer)
    for ancestor in type(target).__mro__:
        if ancestor.__name__ in _LAYOUTS:
            return _LAYOUTS[ancestor.__name__]
    raise TypeError(
        f"There are no conversion rules for {type(target).__name__}, "
        f"only for {', '.join(_LAYOUTS)} and classes derived from them."
    )


def _variables(model_or_layer):
    """{path from the model or layer: variable}, without the state of random generators."""
    prefix = "" if hasattr(model_or_layer, "layers") else f"{model_or_layer.path}/"
    return {variable.path.removeprefix(prefix): variable for variable in model_or_layer.weights}
