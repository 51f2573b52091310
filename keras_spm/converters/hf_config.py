"""What a folder's configuration says of the model in it: ours, timm's or transformers'."""

import collections
import dataclasses
import os
import pathlib
import re

from keras_spm.converters import image_processors
from keras_spm.converters.validation import check_task
from keras_spm.weights.errors import FormatError
from keras_spm.weights.files import read_json
from keras_spm.weights.messages import listed
from keras_spm.weights.messages import shortened

OWN_FORMAT = "keras_spm"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
# The task of all foreign folders.
CLASSIFIER = "ImageClassifier"


@dataclasses.dataclass(frozen=True)
class Description:
    """A model, as data.

    Attributes:
        layout: of its weights: `"keras_spm"`, `"timm"` or `"transformers"`.
        backbone: name of the backbone's class.
        arguments: of the backbone's constructor.
        variant: name of one of the class's presets that the arguments add to, or None.
        task_arguments: of the task's constructor but for the backbone; None for a bare
            backbone.
        task: name of the task's class.
        sha256: of the weight file, where the folder says so.
    """

    layout: str
    backbone: str
    arguments: dict
    variant: str | None = None
    task_arguments: dict | None = None
    task: str = CLASSIFIER
    sha256: str | None = None


def describe(folder):
    """Reads the `Description` of a folder.

    Args:
        folder: path of a folder with a `config.json`.

    Raises:
        FileNotFoundError: where there is none.
        FormatError: for a configuration that is no model of ours; names what it has.
    """
    path = pathlib.Path(folder) / CONFIG
    if not os.path.lexists(path):
        raise FileNotFoundError(f"The folder {folder} holds no {CONFIG}.")
    config = read_json(path, "configuration")
    if not isinstance(config, dict):
        raise FormatError(f"{path} holds a {type(config).__name__}, not a configuration.")
    processor_path = path.with_name(PROCESSOR)
    processor = {}
    if os.path.lexists(processor_path):
        processor = read_json(processor_path, "configuration")
    try:
        description = _described(config, processor)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        reason = shortened(f"{type(error).__name__} {error}")
        raise FormatError(f"{path} is incomplete: {reason}") from error
    except ValueError as error:
        raise FormatError(f"{path}: {shortened(error)}") from error
    if description is None:
        raise FormatError(
            f"{path} is not a configuration of {OWN_FORMAT}, transformers or timm: "
            f"it has [{listed(map(repr, sorted(config)))}]."
        )
    if description.task_arguments is not None:
        check_task(description.task, description.task_arguments, path)
    return description


def _described(config, processor):
    """The `Description`, or None for a configuration of another kind."""
    if config.get("format") == OWN_FORMAT:
        return _own(config)
    if "model_type" in config:
        return _transformers(config, processor)
    if "architecture" in config:
        return _timm(config)
    return None


def _own(config):
    backbone, task = config["backbone"], config.get("task")
    if "classifier" in config:  # As version 0.1.0 wrote it.
        arguments = config["classifier"]
        task = None if arguments is None else {"class": CLASSIFIER, "config": arguments}
    return Description(
        layout=OWN_FORMAT,
        backbone=backbone["class"],
        arguments=dict(backbone["config"]),
        task_arguments=None if task is None else dict(task["config"]),
        task=CLASSIFIER if task is None else task["class"],
        sha256=_sha256(config.get("weights", {})),
    )


def _sha256(weights):
    sha256 = weights.get("sha256")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"`sha256` cannot be {sha256!r}")
    return sha256


# model_type → (class, {our argument: their key}, {their key: the only value we compute})
_TRANSFORMERS = {
    "pvt": (
        "PVT",
        {
            "embed_dims": "hidden_sizes",
            "depths": "depths",
            "num_heads": "num_attention_heads",
            "mlp_ratios": "mlp_ratios",
            "sr_ratios": "sequence_reduction_ratios",
            "embedding_norm_epsilon": "layer_norm_eps",
        },
        {
            "patch_sizes": [4, 2, 2, 2],
            "strides": [4, 2, 2, 2],
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
            "qkv_bias": True,
        },
    ),
    "pvt_v2": (
        "PVTv2",
        {
            "embed_dims": "hidden_sizes",
            "depths": "depths",
            "num_heads": "num_attention_heads",
            "mlp_ratios": "mlp_ratios",
            "sr_ratios": "sr_ratios",
            "linear_attention": "linear_attention",
            "embedding_norm_epsilon": "layer_norm_eps",
        },
        {
            "patch_sizes": [7, 3, 3, 3],
            "strides": [4, 2, 2, 2],
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
            "qkv_bias": True,
        },
    ),
    "swin": (
        "Swin",
        {
            "embed_dim": "embed_dim",
            "depths": "depths",
            "num_heads": "num_heads",
            "window_size": "window_size",
            "mlp_ratio": "mlp_ratio",
        },
        {
            "patch_size": 4,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "qkv_bias": True,
            "use_absolute_embeddings": False,
        },
    ),
}


def _transformers(config, processor):
    if config["model_type"] not in _TRANSFORMERS:
        raise ValueError(
            f"model_type {config['model_type']!r} is none of {', '.join(_TRANSFORMERS)}."
        )
    backbone, names, fixed = _TRANSFORMERS[config["model_type"]]
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]}; {backbone} computes with {value} alone.")
    arguments = {ours: config[theirs] for ours, theirs in names.items()}
    if backbone == "PVT":
        size = config.get("image_size", 224)
        arguments["pretrain_image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    architecture = (config.get("architectures") or [""])[0]
    classifier = None
    if architecture.endswith("ForImageClassification"):
        labels = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(2)}
        class_names = [labels[str(index)] for index in range(len(labels))]
        classifier = {
            "num_classes": len(class_names),
            "class_names": _distinct(class_names),
            **image_processors.from_transformers(processor),
        }
    return Description("transformers", backbone, arguments, task_arguments=classifier)


# class → pattern of timm's names for it: variant, and window size
_TIMM_ARCHITECTURES = {
    "PVTv2": re.compile(r"pvt_v2_(b[0-5]|b2_li)"),
    "Swin": re.compile(r"swin_(tiny|small|base)_patch4_window(\d+)_\d+"),
}


def _timm(config):
    matches = {
        name: pattern.fullmatch(config["architecture"])
        for name, pattern in _TIMM_ARCHITECTURES.items()
    }
    backbone = next((name for name, match in matches.items() if match), None)
    if backbone is None:
        raise ValueError(f"architecture {config['architecture']!r} is no PVT v2 or Swin of ours.")
    variant, *window = matches[backbone].groups()
    classifier = None
    if config["num_classes"]:
        classifier = {
            "num_classes": config["num_classes"],
            "class_names": config.get("label_names"),
            **image_processors.from_timm(config.get("pretrained_cfg", {})),
        }
    arguments = {"window_size": int(window[0])} if window else {}
    return Description("timm", backbone, arguments, variant, classifier)


def _distinct(names):
    """Names, with the number of its class behind each that stands twice (ImageNet's cranes)."""
    counts = collections.Counter(names)
    return [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]
