"""Reads the configuration of a model folder: this package's, transformers' or timm's."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from keras_spm.converters.validation import check_arguments
from keras_spm.registry import CONFIGS
from keras_spm.types import PathLike
from keras_spm.weights.errors import FormatError, join_names, shorten
from keras_spm.weights.files import read_json
from keras_spm.weights.key_mapping import OWN_FORMAT

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"

# Task of transformers' and timm's folders, and its layers beside the backbone.
_CLASSIFIER = ("ImageClassifier", ("head",))
# Key that names the architecture in each library's configuration.
_TASKS = "transformers task/"  # Prefix of registered tasks.
_ARCHITECTURE_KEYS = {"transformers": "model_type", "timm": "architecture"}
# Pillow's codes, which transformers writes.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The configuration of a model.

    Attributes:
        layout: of its weights: `"keras_spm"`, `"transformers"` or `"timm"`.
        backbone: class name of the backbone.
        arguments: of the backbone's constructor.
        variant: name of one of the class's presets, which `arguments` override, or `None`.
        task: class name of the task, or `None` for a bare backbone.
        task_arguments: of the task's constructor, without the backbone.
        task_layers: names of the task's own layers that have weights.
        sha256: of the weight file, if known.
        adapted_layers: see `keras_spm.layers.adaptation.adapted_layers`.
    """

    layout: str
    backbone: str
    arguments: dict[str, Any]
    variant: str | None = None
    task: str | None = None
    task_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    task_layers: tuple[str, ...] = ()
    sha256: str | None = None
    adapted_layers: tuple[dict[str, Any], ...] = ()


# (class name of the backbone, variant or None, constructor arguments)
BackboneConfig: TypeAlias = tuple[str, str | None, dict[str, Any]]


def register_config(
    library: str, architecture: str, read: Callable[[dict, re.Match], BackboneConfig]
) -> None:
    """Registers how a backbone is built from a configuration of transformers or timm.

    Args:
        library: `"transformers"` or `"timm"`.
        architecture: regular expression that matches all of transformers' `model_type` or
            timm's `architecture`.
        read: function from (contents of config.json, match of `architecture`) to a
            `BackboneConfig`, such as a `ConfigTable`. Raises ValueError if unsupported.

    Example:
    ```python
    register_config("timm", r"mynet_(small|large)", lambda config, match: ("MyNet", match[1], {}))
    ```
    """
    if library not in _ARCHITECTURE_KEYS:
        raise ValueError(
            f"`library` must be one of {list(_ARCHITECTURE_KEYS)}. Received: library={library!r}"
        )
    CONFIGS.register(f"{library}/{architecture}", read)


class HeadConfig(NamedTuple):
    """A task with a head, as a configuration describes it.

    Attributes:
        task: class name of the task.
        argument: name of the head in the task's constructor.
        head: class name of the head.
        arguments: of the head's constructor, but for `num_classes`.
    """

    task: str
    argument: str
    head: str
    arguments: dict[str, Any]


def register_task_config(architecture: str, read: Callable[[dict], HeadConfig]) -> None:
    """Registers how a task with a head is built from a configuration of transformers.

    Args:
        architecture: class name in transformers, as in `architectures` of the configuration.
        read: function from the contents of config.json to a `HeadConfig`. Raises ValueError if
            unsupported.
    """
    CONFIGS.register(f"{_TASKS}{architecture}", read)


@dataclasses.dataclass(frozen=True)
class ConfigTable:
    """Maps a configuration to constructor arguments by a table, for `register_config`.

    Attributes:
        class_name: of the backbone.
        arguments: {constructor argument: key of the configuration}.
        constants: {key of the configuration: the only supported value}.
    """

    class_name: str
    arguments: dict[str, str]
    constants: dict[str, Any]

    def __call__(self, config: dict, match: re.Match) -> BackboneConfig:
        for key, value in self.constants.items():
            if config.get(key, value) != value:
                raise ValueError(f"`{key}` must be {value}. Received: {config[key]}")
        arguments = {argument: config[key] for argument, key in self.arguments.items()}
        return self.class_name, None, arguments


def read_config(folder: PathLike) -> ModelConfig:
    """Reads the configuration of a folder with a `config.json`.

    Raises:
        FileNotFoundError: if the folder has no `config.json`.
        FormatError: for an unknown, incomplete or unsupported configuration.
    """
    path = pathlib.Path(folder) / CONFIG
    if not os.path.lexists(path):
        raise FileNotFoundError(f"The folder {folder} has no {CONFIG}.")
    contents = read_json(path, "configuration")
    if not isinstance(contents, dict):
        raise FormatError(f"{path} has a {type(contents).__name__}, expected a JSON object.")
    processor_path = path.with_name(PROCESSOR)
    has_processor = os.path.lexists(processor_path)
    processor = read_json(processor_path, "configuration") if has_processor else {}
    library = next((name for name, key in _ARCHITECTURE_KEYS.items() if key in contents), None)
    try:
        if contents.get("format") == OWN_FORMAT:
            config = _own_config(contents)
        elif library is not None:
            config = _foreign_config(library, contents, processor)
        else:
            raise ValueError(
                f"it is not a configuration of {OWN_FORMAT}, transformers or timm: its keys "
                f"are [{join_names(map(repr, sorted(contents)))}]"
            )
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        reason = shorten(f"{type(error).__name__} {error}")
        raise FormatError(f"{path} is incomplete or invalid: {reason}") from error
    except ValueError as error:
        raise FormatError(f"{path}: {shorten(error)}") from error
    check_arguments(config.arguments, path)
    check_arguments(config.task_arguments, path)
    check_arguments({"adapted_layers": config.adapted_layers}, path)
    return config


def _own_config(contents):
    backbone, task, sha256 = contents["backbone"], contents["task"], contents["weights"]["sha256"]
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"`sha256` cannot be {sha256!r}")
    class_name, arguments = _checked_name(backbone["class"]), dict(backbone["config"])
    groups = tuple(map(_checked_group, contents.get("adapted_layers", ())))
    config = ModelConfig(OWN_FORMAT, class_name, arguments, sha256=sha256, adapted_layers=groups)
    if task is None:
        return config
    name, layers = _checked_name(task["class"]), tuple(map(_checked_name, task["layers"]))
    task_arguments = dict(task["config"])
    return dataclasses.replace(config, task=name, task_arguments=task_arguments, task_layers=layers)


def _checked_group(group):
    """Returns a group of adapted layers; the values are checked when they are adapted."""
    unknown = group.keys() - {"layers", "quantization", "lora_rank", "lora_alpha"}
    if unknown or not all(isinstance(path, str) for path in group["layers"]):
        raise ValueError(f"`adapted_layers` cannot have {join_names(map(repr, sorted(group)))}")
    return group


def _checked_name(name):
    if not isinstance(name, str):
        raise TypeError(f"a name must be a string. Received: {name!r}")
    return name


def _foreign_config(library, contents, processor):
    key = _ARCHITECTURE_KEYS[library]
    architecture = _checked_name(contents[key])
    patterns = [name.partition("/")[2] for name in CONFIGS if name.startswith(f"{library}/")]
    matches = (re.fullmatch(pattern, architecture) for pattern in patterns)
    match = next((match for match in matches if match), None)
    if match is None:
        raise ValueError(f"`{key}` {architecture!r} is none of {', '.join(patterns)}")
    class_name, variant, arguments = CONFIGS[f"{library}/{match.re.pattern}"](contents, match)
    if (channels := _read_channels(library, contents)) != 3:
        arguments = {**arguments, "image_shape": (None, None, channels)}
    config = ModelConfig(library, class_name, arguments, variant)
    if (task := f"{_TASKS}{_architecture(contents)}") in CONFIGS:
        return _with_head(config, CONFIGS[task](contents), contents, processor)
    read_task = {"transformers": _transformers_task, "timm": _timm_task}[library]
    return as_classifier(config, read_task(contents, processor))


def _read_channels(library, contents):
    """Returns the channels of images."""
    if library == "transformers":
        return contents.get("num_channels", 3)
    default, *_ = contents.get("pretrained_cfg", {}).get("input_size", [3])
    return contents.get("model_args", {}).get("in_chans", default)


def _architecture(contents):
    """Returns the class name of transformers' model, empty for other libraries."""
    return (contents.get("architectures") or [""])[0]


def _with_head(config, head, contents, processor):
    """Returns the configuration with a segmenter. Images are resized as by the processor."""
    names, settings = _class_names(contents), read_processor(processor)
    arguments = {
        "num_classes": len(names),
        "class_names": names,
        head.argument: {
            "class": head.head,
            "config": {"num_classes": len(names), **head.arguments},
        },
    }
    if (preprocessing := settings.pop("preprocessing", None)) is not None:
        # With their aspect ratio.
        settings["batching"] = {"min_size": min(preprocessing["image_size"])}
    return dataclasses.replace(
        config,
        task=head.task,
        task_arguments={**arguments, **settings},
        task_layers=(head.argument,),
    )


def as_classifier(config: ModelConfig, task_arguments: dict[str, Any] | None) -> ModelConfig:
    """Returns the configuration with an image classifier of these arguments, if any."""
    if task_arguments is None:
        return config
    task, layers = _CLASSIFIER
    return dataclasses.replace(config, task=task, task_arguments=task_arguments, task_layers=layers)


def _transformers_task(config, processor):
    if not _architecture(config).endswith("ForImageClassification"):
        return None
    names = _class_names(config)
    return {"num_classes": len(names), "class_names": names, **read_processor(processor)}


def _class_names(config):
    labels = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(2)}
    names = [labels[str(index)] for index in range(len(labels))]
    # The index is appended to duplicate names, such as ImageNet's two cranes.
    counts = collections.Counter(names)
    return [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]


def _timm_task(config, processor):
    if not config["num_classes"]:
        return None
    return {
        "num_classes": config["num_classes"],
        "class_names": config.get("label_names"),
        **_read_pretrained_cfg(config.get("pretrained_cfg", {})),
    }


def read_processor(processor: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `ImageClassifier` in a `preprocessor_config.json`.

    There is no `preprocessing` if `ImagePreprocessing` does not support its steps.
    """
    arguments = _normalization(processor.get("image_mean"), processor.get("image_std"))
    if processor.get("do_normalize") is False:
        arguments = _normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    size, crop = (_sizes(processor.get(key)) for key in ("size", "crop_size"))
    interpolation = _INTERPOLATIONS.get(processor.get("resample"))
    if interpolation is None or processor.get("do_resize") is False:
        return arguments
    if len(size) == 2 and not processor.get("do_center_crop"):
        return arguments | _preprocessing(size, None, interpolation)
    if len(size) == 1 and processor.get("do_center_crop") and len(set(crop)) == 1:
        return arguments | _preprocessing(crop, crop[0] / size[0], interpolation)
    return arguments


def _read_pretrained_cfg(pretrained_cfg):
    arguments = _normalization(pretrained_cfg.get("mean"), pretrained_cfg.get("std"))
    _, *size = pretrained_cfg.get("input_size", [3])
    crop_pct = pretrained_cfg.get("crop_pct")
    interpolation = pretrained_cfg.get("interpolation")
    centered = pretrained_cfg.get("crop_mode", "center") == "center"
    if len(size) != 2 or crop_pct is None or interpolation is None or not centered:
        return arguments
    return arguments | _preprocessing(size, crop_pct, interpolation)


def _sizes(size):
    """Returns (height, width), (shorter side,), or ()."""
    if isinstance(size, int):
        return (size, size)
    size = size or {}
    if "shortest_edge" in size:
        return (size["shortest_edge"],)
    return (size["height"], size["width"]) if "height" in size else ()


def _preprocessing(image_size, crop_pct, interpolation):
    size = tuple(image_size)
    settings = {"image_size": size, "crop_pct": crop_pct, "interpolation": interpolation}
    return {"preprocessing": settings}


def _normalization(mean, std):
    if mean is None or std is None:
        return {}
    return {"mean": tuple(mean), "std": tuple(std)}
