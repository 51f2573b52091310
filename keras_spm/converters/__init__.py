"""Weights between PyTorch code bases and ours: one rule table per family and layout."""

import keras
import numpy as np

from keras_spm.converters import pvt
from keras_spm.converters import pvt_v2
from keras_spm.converters import stepwise_patch_merging
from keras_spm.converters import swin
from keras_spm.weights import state_dict
from keras_spm.weights.errors import MismatchError
from keras_spm.weights.formats import read_arrays
from keras_spm.weights.messages import listed

# By class name, so that a subclass is known as what it derives from. A layout that has a
# form for models without classifier stands twice, under one name.
_LAYOUTS = {
    "PVT": pvt.LAYOUTS,
    "PVTv2": pvt_v2.LAYOUTS,
    "Swin": swin.LAYOUTS,
    "StepwisePatchMerging": stepwise_patch_merging.MERGING_LAYOUTS,
    "MultiScaleAggregation": stepwise_patch_merging.AGGREGATION_LAYOUTS,
    "GuidedLocalEnhancement": stepwise_patch_merging.ENHANCEMENT_LAYOUTS,
}


def load_torch_weights(model_or_layer, source, layout="auto"):
    """Loads weights of a PyTorch implementation, all of them or none.

    Every variable is assigned exactly once and every tensor of the source is used, a
    derived buffer, or one that the model has no place for: the head of a classifier,
    and the class token and final norm of a PVT. A head for another number of classes
    stays fresh. Position embeddings of another grid and bias tables of another window
    are resized. All is checked before the first assignment.

    Args:
        model_or_layer: a built backbone, a task, or a layer of the SPM family.
        source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, of an index of
            shards, or of a folder as transformers writes it; or a mapping of names to
            arrays. Wrappers (`model`, `state_dict`, `module.`) are seen through. Half
            precision is widened exactly.
        layout: one of `list_layouts(model_or_layer)`, or `"auto"` to tell from the
            names.

    Returns:
        A `keras_spm.weights.LoadReport`; print it to read what was done.

    Raises:
        keras_spm.weights.FormatError: where the source cannot be read.
        keras_spm.weights.MismatchError: where names, shapes or values do not fit, or
            the layout's code computes with another epsilon than the model; the message
            names them and the model is unchanged.
        FileNotFoundError: for a path without a file.
        TypeError, ValueError: for a model without rules, an unknown layout or a model
            that is not built.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("b1", load_weights=False)
    >>> report = keras_spm.load_torch_weights(backbone, "pvt_v2_b1.pth")
    """
    _candidates(model_or_layer, layout)  # What cannot be loaded into needs no reading.
    return load_arrays(model_or_layer, *read_arrays(source), layout)


def load_arrays(model_or_layer, arrays, where, layout="auto"):
    """The same for {name: numpy array}; `where` is what to call them in messages."""
    candidates = _candidates(model_or_layer, layout)
    variables = variables_of(model_or_layer)
    found = [state_dict.overlap(variables, arrays, candidate) for candidate in candidates]
    if not max(found):
        raise MismatchError(
            f"{where}: no known layout of {type(model_or_layer).__name__} "
            f"({', '.join(dict.fromkeys(each.name for each in candidates))}) names its "
            f"tensors like [{listed(map(repr, arrays))}]."
        )
    chosen = candidates[found.index(max(found))]
    _check_attributes(model_or_layer, chosen)
    return state_dict.load(variables, arrays, chosen, where)


def to_torch_state_dict(model_or_layer, layout="official"):
    """Returns the weights as a PyTorch implementation names and shapes them.

    The PyTorch side takes them with `load_state_dict(strict=True)`, once they are made
    tensors: its model without a classifier takes a backbone, with one a task. What was
    loaded comes out bit for bit. Derived buffers are made anew.

    Args:
        model_or_layer: a built backbone, a task, or a layer of the SPM family.
        layout: one of `list_layouts(model_or_layer)`.

    Returns:
        {name: numpy array}, float32 but for integer buffers.

    Raises:
        keras_spm.weights.MismatchError: where the layout has no place for a part of the
            model, or its code computes with another epsilon than the model.
        TypeError, ValueError: for a model without rules, an unknown layout or a model
            that is not built.

    Example:

    >>> state = keras_spm.to_torch_state_dict(backbone, "timm")  # doctest: +SKIP
    >>> pvt_v2.load_state_dict({k: torch.tensor(v) for k, v in state.items()})  # doctest: +SKIP
    """
    candidates = _candidates(model_or_layer, layout)
    if layout == "auto":
        raise ValueError("`layout` 'auto' is for loading. Name the one to write in.")
    has_head = hasattr(model_or_layer, "backbone")
    chosen = next((each for each in candidates if each.bare != has_head), candidates[0])
    _check_attributes(model_or_layer, chosen)
    buffers = chosen.buffers(getattr(model_or_layer, "backbone", model_or_layer))
    return state_dict.write(values_of(model_or_layer), chosen) | buffers


def list_layouts(model_or_layer):
    """Returns the names of the layouts that a model's weights can be read and written in.

    `"official"` is the papers' own code, `"timm"` and `"transformers"` those libraries;
    `"transformers_5"` is Swin in the memory of transformers 5, whose files keep the
    older names.

    Raises:
        TypeError: for a model without rules.
    """
    return list(dict.fromkeys(layout.name for layout in _layouts(model_or_layer)))


def _candidates(model_or_layer, layout):
    if not model_or_layer.built:
        raise ValueError(f"{model_or_layer.name!r} has no variables yet: build or call it first.")
    if getattr(getattr(model_or_layer, "backbone", model_or_layer), "fused", False):
        raise ValueError(
            f"{model_or_layer.name!r} is fused, which no PyTorch code is: convert the original, "
            "and call `keras_spm.fuse` then."
        )
    candidates = _layouts(model_or_layer)
    if layout == "auto":
        return candidates
    chosen = [candidate for candidate in candidates if candidate.name == layout]
    if not chosen:
        raise ValueError(
            f"`layout` must be one of {list_layouts(model_or_layer)}, or 'auto' for loading. "
            f"Received: layout={layout!r}"
        )
    return chosen


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


def _check_attributes(model_or_layer, layout):
    """Refuses weights that the layout's code would compute other numbers with."""
    target = getattr(model_or_layer, "backbone", model_or_layer)
    for name, value in layout.attributes.items():
        if getattr(target, name) != value:
            raise MismatchError(
                f"The {layout.name} layout's code computes with {name}={value}, the model with "
                f"{name}={getattr(target, name)}: build the model with {name}={value}."
            )


def variables_of(model_or_layer):
    """{path from the model or layer: variable}, without the state of random generators."""
    prefix = "" if hasattr(model_or_layer, "layers") else f"{model_or_layer.path}/"
    return {variable.path.removeprefix(prefix): variable for variable in model_or_layer.weights}


def values_of(model_or_layer):
    """{path: float32 numpy array} of all its variables."""
    return {
        path: keras.ops.convert_to_numpy(variable).astype(np.float32)
        for path, variable in variables_of(model_or_layer).items()
    }
