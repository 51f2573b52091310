"""Builds a model as its source describes it, and loads its weights."""

import functools
import inspect
import re
import warnings
from typing import Any

import keras
import numpy as np

from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones.merging import GATED, MERGING_PATH, copy_shared_variables
from keras_spm.converters.conversion import (
    detect_layout,
    load_torch_weights,
    set_report,
    variables_of,
)
from keras_spm.converters.validation import build_without_memory, check_backbone, check_size
from keras_spm.presets.building import (
    IMAGE_SHAPE,
    adapted_statistics,
    backbone_arguments_of,
    backbone_class_of,
    build_model,
    saved_task_of,
    task_class_of,
    with_head,
)
from keras_spm.presets.saving import own_arrays, own_layout, predictor_paths
from keras_spm.presets.sources import Source, Weights, find_source
from keras_spm.registry import BACKBONES, lookup
from keras_spm.transplantation import transplant
from keras_spm.types import PathLike
from keras_spm.version import __version__
from keras_spm.weights import cache, state_dict
from keras_spm.weights.errors import FormatError, WeightsError, shorten
from keras_spm.weights.key_mapping import OWN_FORMAT


def load_preset(
    cls: type[keras.Model],
    name: PathLike,
    load_weights: bool,
    weights_file: PathLike | None,
    arguments: dict[str, Any],
    images: Any = None,
) -> keras.Model:
    """Builds a backbone or task from a preset; see `from_preset` of the model."""
    is_backbone = issubclass(cls, PyramidBackbone)
    wanted = cls if is_backbone else PyramidBackbone
    load_weights = load_weights and weights_file is None
    source = find_source(wanted, name, load_weights)
    if load_weights and not source.is_untrusted:  # The preset is known, but not on the hub.
        _warn_of_random_weights(source)
        load_weights = False
    backbone_class, saved_task = backbone_class_of(source), saved_task_of(source)
    task = None if is_backbone else task_class_of(cls, saved_task, source)
    # A task of another class gets only the backbone's weights.
    whole = None not in (task, saved_task) and (
        issubclass(task, saved_task) or issubclass(saved_task, task)
    )
    weights = _read_weights(source) if load_weights else None
    if source.is_untrusted:
        _check_config(source, saved_task if whole else None, weights)
    build = functools.partial(build_model, task, backbone_class, source, arguments, whole)
    try:
        model = build()
    except TypeError as error:
        _check_known(task or backbone_class, arguments, error)
        raise
    original = None
    if load_weights:
        report, original = _load(model, source, weights, build, whole)
        set_report(model, report)
        missing = set(model.load_report.missing_keys)
        if whole and "num_classes" not in arguments and missing & set(predictor_paths(model)):
            raise FormatError(
                f"{source.name} has weights for other classes than its configuration."
            )
        _warn_of_license(source)
        if images is None:
            _warn_of_merging(model, source)
    if weights_file is not None:
        original = _load_file(model, weights_file, build, images is not None)
    if images is not None:
        model.transplant_report = transplant(model, images, _teacher_of(model, original))
    if load_weights:
        getattr(model, "backbone", model).preset = source.name  # For `keras_spm.transplant`.
    return model


def _check_known(cls, arguments, error):
    """Raises a `TypeError` with the nearest name if a constructor did not know an argument."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is not None and unknown[1] in arguments:
        known = {}
        for ancestor in cls.__mro__[: cls.__mro__.index(keras.Model)]:
            parameters = inspect.signature(ancestor.__init__).parameters.values()
            # A base class gets its required arguments from the subclass.
            known |= {
                each.name: each
                for each in parameters
                if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
                and (not known or each.default is not each.empty)
            }
        known.pop("self")
        try:
            lookup(f"argument of {cls.__name__}", unknown[1], known)
        except ValueError as message:
            raise TypeError(str(message)) from error


def _warn_of_random_weights(source):
    warnings.warn(
        f"{source.name} has random weights: those of its card are not on the hub. Download "
        f"{source.card.file or 'them'} from {source.card.page}, and pass the path as `weights`.",
        stacklevel=4,  # The caller of `from_preset`.
    )


def _warn_of_license(source):
    if source.card is not None and source.card.is_non_commercial:
        warnings.warn(
            f"{source.name}: the weights of {source.card.address} are under the "
            f"{source.card.license}.",
            stacklevel=4,  # The caller of `from_preset`.
        )


def _warn_of_merging(model, source):
    report, backbone = model.load_report, getattr(model, "backbone", model)
    if getattr(backbone, "merging", None) == GATED:
        return  # The gates are closed.
    stages = {path.partition("/")[0] for path in report.missing_keys if MERGING_PATH in path}
    if stages:
        warnings.warn(
            f"{source.name}: no weights are published with this merging. The other layers are "
            f"loaded from {source.config.backbone}; the mergings of {', '.join(sorted(stages))} "
            "are randomly initialized. `transplant=images` gives them a pretrained start.",
            stacklevel=4,  # The caller of `from_preset`.
        )


# Building


def _check_config(source, saved_task, weights):
    """Builds the described model without memory, and compares it with the weights.

    So a configuration cannot make this package allocate more than the weights need.
    """
    arguments = backbone_arguments_of(source)
    check_backbone(arguments, weights and weights.arrays, source.name)

    def build():
        backbone = BACKBONES[source.config.backbone](**arguments)
        if saved_task is None:
            return backbone
        saved = source.config.task_arguments
        saved = {**saved, **adapted_statistics(saved, backbone)}
        task_arguments = with_head(saved_task, saved, {})
        # Not compiled: an optimizer has variables with values, which need memory.
        model = saved_task.__new__(saved_task, backbone, **task_arguments)
        object.__setattr__(model, "compile", lambda *args, **kwargs: None)
        model.__init__(backbone, **task_arguments)
        return model

    def build_adapted():
        model = build()
        _adapt(model, source)
        return model

    try:
        model = build_without_memory(build_adapted)
        if weights is None:
            check_size(model, source.name)
        else:
            layout = _layout(model, source, weights)
            found = state_dict.match(variables_of(model), weights.arrays, layout, weights.source)
            if found.adapted_channels:  # Only if the caller asks for it.
                raise FormatError(
                    f"{source.name} has weights for images of other channels than its "
                    "configuration."
                )
    except WeightsError:
        raise
    except Exception as error:  # Of any constructor.
        raise FormatError(f"{source.name} cannot be built: {shorten(error)}") from error


# Loading


def _read_weights(source: Source) -> Weights:
    """Reads a source's weights; those of another library on the hub from the cache."""
    if source.snapshot is None or source.config.layout == OWN_FORMAT:
        return source.read()
    folder = cache.cache_folder(source.snapshot, __version__)
    arrays, path = cache.read_or_convert(folder, lambda: _convert(source))
    return Weights(arrays, OWN_FORMAT, str(path or source.name))


def _convert(source: Source) -> dict[str, np.ndarray]:
    weights, task = source.read(), saved_task_of(source)
    _check_config(source, task, weights)
    model = build_model(task, BACKBONES[source.config.backbone], source, {}, whole=task is not None)
    _assign(model, source, weights)
    return own_arrays(model)


def _load(model, source, weights, build, whole):
    """Loads the weights of a backbone, of a whole task, or of the backbone of another task.

    Returns (report, original): the latter has the merging of the weights, if that differs.
    """
    if hasattr(model, "backbone") and not whole:
        shape = {IMAGE_SHAPE: model.backbone.image_shape}
        build_backbone = functools.partial(
            build_model, None, type(model.backbone), source, shape, False
        )
        report, original = _load(model.backbone, source, weights, build_backbone, whole)
        loaded = variables_of(model.backbone)
        added = [path for path in variables_of(model) if path not in loaded]
        return report.without(added), original
    default = BACKBONES[source.config.backbone].default_merging
    saved_merging = source.config.arguments.get("merging", default)
    merging = getattr(getattr(model, "backbone", model), "merging", saved_merging)
    if merging == saved_merging:
        return _assign(model, source, weights), None
    # Load into a model with the saved merging, then copy all variables except the mergings'.
    original = build(merging=saved_merging)
    report = _assign(original, source, weights)
    _adapt(model, source, with_mergings=False)
    return report.without(copy_shared_variables(model, original)), original


def _load_file(model, path, build, with_original):
    """Loads a file of PyTorch weights.

    Returns the model with the family's own mergings if `with_original`: then the file has those.
    """
    if not with_original:
        load_torch_weights(model, path)
        return None
    original = build(merging="default")
    report = load_torch_weights(original, path)
    set_report(model, report.without(copy_shared_variables(model, original)))
    return original


def _teacher_of(model, original):
    """Returns the teacher of a transplant, `None` if the model contains it."""
    if original is None and getattr(model, "backbone", model).merging != GATED:
        raise ValueError(
            "`transplant` must be `None` unless weights with the mergings of the family are "
            "loaded, into a model with others. Received: transplant with no such weights"
        )
    return original


def _assign(model, source, weights):
    _adapt(model, source)
    layout = _layout(model, source, weights)
    return state_dict.load(variables_of(model), weights.arrays, layout, weights.source)


def _adapt(model, source, with_mergings=True):
    """Quantizes layers and enables LoRA as in the source, if the model has these layers."""
    left_out = _other_layers(model, source)

    def is_adapted(path):
        is_other = any(path == layer or path.startswith(f"{layer}/") for layer in left_out)
        return not is_other and (with_mergings or MERGING_PATH not in path)

    groups = (
        {**group, "layers": [path for path in group["layers"] if is_adapted(path)]}
        for group in source.config.adapted_layers
    )
    if groups := [group for group in groups if group["layers"]]:
        model.adapt(groups)


def _other_layers(model, source):
    """Returns the source's layers that the model lacks, or has for other classes."""
    if not hasattr(model, "backbone"):
        return source.config.task_layers
    saved = source.config.task_arguments.get("num_classes")
    if getattr(model, "num_classes", saved) == saved:
        return ()
    return tuple(layer.path for layer in model.class_predictors())


def _layout(model, source, weights):
    if weights.layout != OWN_FORMAT:
        return detect_layout(model, weights.arrays, weights.source)
    prefixes = tuple(f"{layer}/" for layer in _other_layers(model, source))
    optional = tuple(name for name in weights.arrays if name.startswith(prefixes))
    return own_layout(model, optional if prefixes else ())
