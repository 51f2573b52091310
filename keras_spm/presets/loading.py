"""From a source to a model: built as described, and filled."""

import inspect
import re
import warnings

from keras_spm.backbones import PyramidBackbone
from keras_spm.converters import load_arrays
from keras_spm.converters import variables_of
from keras_spm.converters.hf_config import CLASSIFIER
from keras_spm.converters.hf_config import OWN_FORMAT
from keras_spm.converters.validation import check_extent
from keras_spm.presets.saving import own_arrays
from keras_spm.presets.saving import own_config
from keras_spm.presets.saving import own_layout
from keras_spm.presets.sources import BACKBONES
from keras_spm.presets.sources import Weights
from keras_spm.presets.sources import find_source
from keras_spm.registry import lookup
from keras_spm.tasks import ImageClassifier
from keras_spm.tasks import ObjectDetector
from keras_spm.tasks import SemanticSegmenter
from keras_spm.tasks.image_task import ImageTask
from keras_spm.version import __version__
from keras_spm.weights import cache
from keras_spm.weights import state_dict
from keras_spm.weights.errors import FormatError
from keras_spm.weights.messages import shortened

# The layers of dense tasks beside their backbone.
_HEAD = re.compile("(head|feature_pyramid)/")
_TASKS = {cls.__name__: cls for cls in (ImageClassifier, ObjectDetector, SemanticSegmenter)}
_BY_NAME = {cls.__name__: cls for cls in BACKBONES}


def load_preset(cls, name, load_weights, arguments):
    """Builds a `cls` (a backbone or a task) from a preset; `from_preset` says it all."""
    is_backbone = issubclass(cls, PyramidBackbone)
    source = find_source(cls if is_backbone else PyramidBackbone, name, load_weights)
    backbone_class = _backbone_class(source)
    if cls is ImageTask:
        cls = _described_task(source)
    weights = _weights(source) if load_weights else None
    model = _build(None if is_backbone else cls, backbone_class, source, weights, arguments)
    if load_weights:
        model.load_report = _fill(model, source, weights)
        fresh = model.load_report.missing_keys
        if "num_classes" not in arguments and any(path.startswith("head/") for path in fresh):
            raise FormatError(f"{source.name} holds weights of other classes than it describes.")
        stages = sorted({path.partition("/")[0] for path in fresh if "/merging/" in path})
        if stages:
            warnings.warn(
                f"{source.name}: no weights are published with this merging. All else is filled "
                f"from those of {source.description.backbone}; fresh are the mergings of "
                f"{', '.join(stages)}.",
                stacklevel=4,  # Whoever called `from_preset`.
            )
    return model


def _described_task(source):
    if source.description.task_arguments is None:
        raise ValueError(f"{source.name} holds a backbone without a task.")
    return lookup("task", source.description.task, _TASKS)


def _weights(source):
    """A source's weights; in our own form, kept, where they come from the hub in another."""
    if source.snapshot is None or source.description.layout == OWN_FORMAT:
        return source.read()
    folder = cache.folder_of(source.snapshot, __version__)
    arrays, path = cache.read_or_convert(folder, lambda: _converted(source))
    return Weights(arrays, OWN_FORMAT, str(path or source.name))


def _converted(source):
    weights = source.read()
    task = source.description.task_arguments and ImageClassifier
    model = _build(task, _BY_NAME[source.description.backbone], source, weights, {})
    _load(model, weights)
    return own_arrays(model)


# Building


def _build(task, backbone_class, source, weights, arguments):
    """The source's model, but for what `arguments` want otherwise; without task a backbone."""
    description = source.description
    given = {**backbone_class.presets.get(description.variant, {}), **description.arguments}
    if source.is_foreign:
        classes = (description.task_arguments or {}).get("num_classes")
        check_extent(given, classes, weights and weights.arrays, source.name)
    if backbone_class.__name__ != description.backbone:
        given.pop("merging", None)  # The class wanted has its own.
    try:
        if task is None:
            return backbone_class(**{**given, **arguments})
        return task(backbone_class(**given), **_task_arguments(task, source, arguments))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if not source.is_foreign:  # Then the caller's arguments alone can be wrong.
            raise
        raise FormatError(f"{source.name} cannot be built: {shortened(error)}") from error


def _backbone_class(source):
    """The class to build: what was found, or with SPM what was wanted on its ground."""
    try:
        found = lookup("backbone class", source.description.backbone, _BY_NAME)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{source.name} cannot be built: {shortened(error)}") from error
    if issubclass(found, source.wanted):
        return found
    if issubclass(source.wanted, found):
        return source.wanted
    raise FormatError(f"{source.name} holds a {found.__name__}, not a {source.wanted.__name__}.")


def _task_arguments(task, source, arguments):
    """What was saved of the task, but for what the caller wants otherwise."""
    saved = source.description.task_arguments or {}
    if task.__name__ != source.description.task:
        # Of another task only how the backbone wants its pixels.
        saved = {key: saved[key] for key in ("mean", "std") if key in saved}
    merged = {**saved, **arguments}
    if "num_classes" not in merged:
        raise ValueError(
            f"`num_classes` must be given: {source.name} comes without a {task.__name__}."
        )
    if saved.get("num_classes") != merged["num_classes"] and "class_names" not in arguments:
        merged.pop("class_names", None)
    return merged


# Filling


def _fill(model, source, weights):
    """Loads all, or where the model alone has Stepwise Patch Merging, what is shared."""
    backbone = getattr(model, "backbone", model)
    description = source.description
    if model is not backbone and type(model).__name__ != description.task:
        return _fill_backbone(model, source, weights)
    if model is backbone and description.task != CLASSIFIER:
        # What the other task put on its backbone.
        arrays = {name: weights.arrays[name] for name in weights.arrays if not _HEAD.match(name)}
        weights = weights._replace(arrays=arrays)
    default = inspect.signature(_BY_NAME[description.backbone]).parameters["merging"].default
    merging = description.arguments.get("merging", default)
    if backbone.merging == merging:
        return _load(model, weights)
    ground = _with_merging(model, merging)
    report = _load(ground, weights)
    sources, fresh = variables_of(ground), []
    for path, variable in variables_of(model).items():
        if "/merging/" in path:
            fresh.append(path)
        else:
            variable.assign(sources[path])
    return report.without(fresh)


def _fill_backbone(model, source, weights):
    """Loads the backbone; the task's own layers stay fresh."""
    report = _fill(model.backbone, source, weights)
    known = variables_of(model.backbone)
    return report.without([path for path in variables_of(model) if path not in known])


def _load(model, weights):
    if weights.layout == OWN_FORMAT:
        return state_dict.load(
            variables_of(model), weights.arrays, own_layout(model), weights.where
        )
    return load_arrays(model, weights.arrays, weights.where)


def _with_merging(model, merging):
    """A model like this one, with another merging and its own values."""
    backbone = getattr(model, "backbone", model)
    backbone = type(backbone).from_config({**backbone.get_config(), "merging": merging})
    if not hasattr(model, "backbone"):
        return backbone
    return type(model)(backbone, **own_config(model))
