"""Models for deployment, without the normalizations that evaluation can do without."""

import keras


def fuse(model):
    """Returns a model that computes what `model` does in evaluation, in fewer steps.

    In evaluation batch normalization is a scale and an offset of every channel. In the new
    model they are folded away: those of Multi-Scale Aggregation into its grouped map, and
    with them the biases of its convolutions; those of a `SemanticSegmenter`'s head into its
    convolutions; that of Guided Local Enhancement, before which no layer stands that
    it alone reads, becomes a scale and an offset. Where a network has its family's own
    mergings and no such head there is nothing to fold, and the new model is a copy.

    The new model is of the same class, is saved, loaded and exported like any, and refuses
    to be trained. `model` stays as it is. A task is compiled with its defaults.

    Args:
        model: a backbone or task of this package, or any Keras model with layers of this
            package in it that have an argument `fused`.

    Returns:
        A model, whose outputs are `model`'s up to rounding.

    Raises:
        ValueError: where no layer can be fused, and where `model` is fused already.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=10)
    >>> keras_spm.fuse(model).save("deployed.keras")  # doctest: +SKIP
    """
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    found = set(_set_fused(config))
    if not found:
        raise ValueError(
            "`model` must hold backbones, tasks or layers of keras_spm that can be fused. "
            f"Received: {type(model).__name__} {model.name!r} without any"
        )
    if found == {True}:
        raise ValueError(f"`model` is fused already. Received: {type(model).__name__}")
    # The configuration is that of a living model, not of a file: any of its code may run.
    fused = keras.saving.deserialize_keras_object(config, safe_mode=False)
    _take_over(fused, model)
    return fused


def _set_fused(config):
    """Sets every `fused` in a nested configuration; yields what it was."""
    if isinstance(config, dict):
        if isinstance(config.get("fused"), bool):
            yield config["fused"]
            config["fused"] = True
        config = config.values()
    elif not isinstance(config, (list, tuple)):
        return
    for part in config:
        yield from _set_fused(part)


def _take_over(fused, original):
    """Gives the new model the original's variables, folded where layers fold."""
    (layers, variables), (originals, values) = _apart(fused), _apart(original)
    for layer, unfused in zip(layers, originals, strict=True):
        layer.fold(unfused)
    for variable, value in zip(variables, values, strict=True):
        # Through NumPy, so that models share no array: JAX overwrites those of either.
        variable.assign(keras.ops.convert_to_numpy(value))


def _apart(model):
    """Returns the layers that fold, and the variables of all others."""
    folding = [layer for layer in model._flatten_layers() if hasattr(layer, "fold")]
    theirs = {id(variable) for layer in folding for variable in layer.weights}
    return folding, [variable for variable in model.weights if id(variable) not in theirs]
