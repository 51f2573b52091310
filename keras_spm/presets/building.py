"""Builds the model that a source describes, with the caller's arguments."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.presets.sources import Source
from keras_spm.registry import BACKBONES, HEADS, TASKS
from keras_spm.tasks.graph import adapt_statistics
from keras_spm.tasks.image_task import ImageTask
from keras_spm.weights.errors import FormatError, shorten

IMAGE_SHAPE = "image_shape"
# Arguments of backbones that tasks take for theirs.
_OF_BACKBONE = (IMAGE_SHAPE, "merging")


def backbone_class_of(source: Source) -> type[keras.Model]:
    """Returns the class found, or the SPM subclass of it that is wanted."""
    found = _registered(BACKBONES, source.config.backbone, source)
    if issubclass(found, source.wanted):
        return found
    if issubclass(source.wanted, found):
        return source.wanted
    raise FormatError(f"{source.name} has a {found.__name__}, not a {source.wanted.__name__}.")


def saved_task_of(source: Source) -> type[keras.Model] | None:
    """Returns the class of the task, `None` for a bare backbone."""
    name = source.config.task
    return None if name is None else _registered(TASKS, name, source)


def _registered(registry, name, source):
    try:
        return registry[name]
    except ValueError as error:
        raise FormatError(
            f"{source.name}: {shorten(error)} A class of your own must be defined first."
        ) from error


def task_class_of(
    cls: type[keras.Model], saved_task: type[keras.Model] | None, source: Source
) -> type[keras.Model]:
    """Returns the wanted class, or the subclass of it that was saved."""
    if saved_task is not None and issubclass(saved_task, cls):
        return saved_task
    if cls is ImageTask:
        raise ValueError(f"{source.name} has a backbone without a task.")
    return cls


def build_model(
    task: type[keras.Model] | None,
    backbone_class: type[keras.Model],
    source: Source,
    arguments: dict[str, Any],
    whole: bool,
    **backbone_arguments: Any,
) -> keras.Model:
    """Builds the source's model with the caller's arguments; a backbone if `task` is None."""
    given = {**backbone_arguments_of(source), **backbone_arguments}
    if backbone_class.__name__ != source.config.backbone and not backbone_arguments:
        given.pop("merging", None)  # The wanted class has its own default.
    if task is None:
        return backbone_class(**{**given, **arguments, **backbone_arguments})
    arguments = dict(arguments)
    given |= {name: arguments.pop(name) for name in _OF_BACKBONE if name in arguments}
    backbone = backbone_class(**{**given, **backbone_arguments})
    return task(backbone, **_task_arguments(task, source, arguments, whole, backbone))


def backbone_arguments_of(source: Source) -> dict[str, Any]:
    """Returns the constructor arguments of the source's backbone."""
    presets = BACKBONES[source.config.backbone].presets
    return {**presets.get(source.config.variant, {}), **source.config.arguments}


def adapted_statistics(saved: dict[str, Any], backbone: keras.Model) -> dict[str, Sequence[float]]:
    """Returns saved `mean` and `std`, which may be those of RGB images."""
    return {key: adapt_statistics(saved[key], backbone) for key in ("mean", "std") if key in saved}


def _task_arguments(task, source, arguments, whole, backbone):
    """Returns the saved arguments, overridden by the caller's."""
    saved = source.config.task_arguments
    statistics = adapted_statistics(saved, backbone)
    saved = {**saved, **statistics} if whole else statistics
    merged = {**with_head(task, saved, arguments), **arguments}
    has_classes = task.class_predictors is not ImageTask.class_predictors
    if has_classes and "num_classes" not in merged:
        given = ", ".join(arguments) or "no arguments"
        raise ValueError(
            f"`num_classes` must be given: {source.name} has no {task.__name__}. Received: {given}"
        )
    if saved.get("num_classes") != merged.get("num_classes"):
        for argument in {"class_names", "class_colors"} - arguments.keys():
            merged.pop(argument, None)
    return merged


def with_head(
    task: type[keras.Model], saved: dict[str, Any], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Returns saved arguments with the head object that they describe."""
    name = task.head_argument
    if saved.get(name) is None or name in arguments:
        return saved
    config = dict(saved[name]["config"])
    if "num_classes" in config:
        config["num_classes"] = arguments.get("num_classes", config["num_classes"])
    return {**saved, name: HEADS[saved[name]["class"]].from_config(config)}
