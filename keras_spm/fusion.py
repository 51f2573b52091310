"""Models for deployment: folded batch normalizations, and one merging instead of two."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_spm.arguments import argument_error
from keras_spm.backbones.merging import GATED, MERGING_PATH


def fuse(model: keras.Model) -> keras.Model:
    """Returns a model that computes the inference of `model` in fewer steps.

    Batch normalizations are folded: in Multi-Scale Aggregation into its grouped map, together
    with the biases of its convolutions; in the head of a `SemanticSegmenter` into its
    convolutions; in Guided Local Enhancement into a scale and an offset per channel.

    The new model has the same outputs up to rounding. It is of the same class and can be saved,
    loaded and exported, but not trained. A task is compiled with its defaults. `model` does not
    change.

    Args:
        model: a backbone or task of this package, or any Keras model that contains layers
            of this package with an argument `fused`.

    Raises:
        ValueError: if it is not a model, no layer can be fused, or it is fused already.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=10)
    >>> keras_spm.fuse(model).save("deployed.keras")  # doctest: +SKIP
    """
    if not isinstance(model, keras.Model):
        raise argument_error("model", "a Keras model", model)
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    previous = set(_set_fused(config))
    if not previous:
        raise ValueError(
            "`model` must contain backbones, tasks or layers of keras_spm that can be fused. "
            f"Received: {type(model).__name__} {model.name!r} without any"
        )
    if previous == {True}:
        raise ValueError(f"`model` is fused already. Received: {type(model).__name__}")
    # The configuration comes from an object in memory, not from a file, so its code is trusted.
    fused = keras.saving.deserialize_keras_object(config, safe_mode=False)
    _copy_variables(fused, model)
    return fused


def spm_only(model: keras.Model) -> keras.Model:
    """Returns a model with `merging="spm"` that computes a `"default+spm"` model without default.

    The default mergings must have faded out, see `keras_spm.callbacks.FadeOutDefaultMerging`.
    Their layers are left out, and the gates become part of the scale and offset of the last
    normalization of Stepwise Patch Merging. The new model has the same outputs up to rounding.
    A task is compiled with its defaults. `model` does not change.

    Args:
        model: a backbone of this package with `merging="default+spm"`, or a task on it.

    Raises:
        ValueError: if it is another model, or a default merging still has a share.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("b1", merging="default+spm")  # doctest: +SKIP
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=10)  # doctest: +SKIP
    >>> fading = keras_spm.callbacks.FadeOutDefaultMerging(epochs=10)  # doctest: +SKIP
    >>> model.fit(batches, epochs=20, callbacks=[fading])  # doctest: +SKIP
    >>> keras_spm.spm_only(model).save("birds.keras")  # doctest: +SKIP
    """
    backbone = getattr(model, "backbone", model)
    if getattr(backbone, "merging", None) != GATED:
        raise argument_error("model", f'a backbone or task with merging="{GATED}"', model)
    gated = _mergings(backbone)
    shares = [float(keras.ops.convert_to_numpy(layer.default_share)) for layer in gated]
    if any(shares):
        raise ValueError(
            "`model` still uses its default mergings. Train it with "
            "`keras_spm.callbacks.FadeOutDefaultMerging` until their share is 0. "
            f"Received: shares of {shares}"
        )
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    of_backbone = config["config"] if model is backbone else config["config"]["backbone"]["config"]
    of_backbone["merging"] = "spm"
    result = keras.saving.deserialize_keras_object(config, safe_mode=False)
    values = {variable.path: variable for variable in model.weights}
    for variable in result.weights:
        path = variable.path.replace(MERGING_PATH, f"{MERGING_PATH}spm/")
        variable.assign(keras.ops.convert_to_numpy(values[path]))
    mergings = _mergings(getattr(result, "backbone", result))
    for merging, layer in zip(mergings, gated, strict=True):
        scale = 1 + keras.ops.convert_to_numpy(layer.gate)
        norm = merging.guided_local_enhancement.output_norm
        for variable in (norm.gamma, norm.beta):
            variable.assign(scale * keras.ops.convert_to_numpy(variable))
    return result


def _mergings(backbone):
    return [stage.merging for stage in backbone.stages if stage.merging is not None]


def _set_fused(config: Any) -> Iterator[bool]:
    """Sets every `fused` in a nested configuration to True; yields the previous values."""
    if isinstance(config, dict):
        if isinstance(config.get("fused"), bool):
            yield config["fused"]
            config["fused"] = True
        config = config.values()
    elif not isinstance(config, (list, tuple)):
        return
    for value in config:
        yield from _set_fused(value)


def _copy_variables(fused: keras.Model, original: keras.Model) -> None:
    """Copies the variables of `original`; layers with a method `fold` fold theirs."""
    (layers, variables), (originals, values) = _split_foldable(fused), _split_foldable(original)
    for layer, unfused in zip(layers, originals, strict=True):
        layer.fold(unfused)
    for variable, value in zip(variables, values, strict=True):
        # Through NumPy, so that the models share no arrays: JAX may overwrite them in place.
        variable.assign(keras.ops.convert_to_numpy(value))


def _split_foldable(model: keras.Model) -> tuple[list[keras.layers.Layer], list[keras.Variable]]:
    """Returns the layers that fold, and the variables of all other layers."""
    foldable = [layer for layer in model._flatten_layers() if hasattr(layer, "fold")]
    folded = {id(variable) for layer in foldable for variable in layer.weights}
    return foldable, [variable for variable in model.weights if id(variable) not in folded]
