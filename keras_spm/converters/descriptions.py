"""What a folder's configuration says of the model in it: ours, timm's or transformers'."""

import collections
import dataclasses
import pathlib
import re

from keras_spm.weights.errors import FormatError
from keras_spm.weights.formats import parse_json

OWN_FORMAT = "keras_spm"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """A model, as data.

    Attributes:
        layout: of its weights: `"keras_spm"`, `"timm"` or `"transformers"`.
        backbone: name of the backbone's class.
        arguments: of the backbone's constructor.
        variant: name of one of the class's presets that the arguments add to, or None.
        classifier: arguments of `ImageClassifier` but for the backbone; None for a bare
            backbone.
    """

    layout: str
    backbone: str
    arguments: dict
    variant: str | None = None
    classifier: dict | None = None


def describe(folder):
    """Reads the `Description` of a folder.

    Args:
        folder: path of a folder with a `config.json`.

    Raises:
        FileNotFoundError: where there is none.
        FormatError: for a configuration that is no model of ours; names what it has.
    """
    path = pathlib.Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"The folder {folder} holds no {CONFIG}.")
    config = parse_json(path, path.read_bytes(), "configuration")
    if not isinstance(config, dict):
        raise FormatError(f"{path} holds a {type(config).__name__}, not a configuration.")
    processor_path = path.with_name(PROCESSOR)
    processor = {}
    if processor_path.is_file():
        processor = parse_json(processor_path, processor_path.read_bytes(), "configuration")
    try:
        if config.get("format") == OWN_FORMAT:
            return _own(config)
        if "model_type" in config:
            return _transformers(config, processor)
        if "architecture" in config:
            return _timm(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is incomplete: {type(error).__name__} {error}") from error
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
    raise FormatError(
        f"{path} is not a configuration of {OWN_FORMAT}, transformers or timm: "
        f"it has {sorted(config)[:8]}."
    )


def _own(config):
    backbone, classifier = config["backbone"], config.get("classifier")
    return Description(
        layout=OWN_FORMAT,
        backbone=backbone["class"],
        arguments=dict(backbone["config"]),
        classifier=None if classifier is None else dict(classifier),
    )


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
        arguments["position_image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    architecture = (config.get("architectures") or [""])[0]
    classifier = None
    if architecture.endswith("ForImageClassification"):
        labels = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(2)}
        class_names = [labels[str(index)] for index in range(len(labels))]
        classifier = {
            "num_classes": len(class_names),
            "class_names": _distinct(class_names),
            **_normalization(processor.get("image_mean"), processor.get("image_std")),
        }
    return Description("transformers", backbone, arguments, classifier=classifier)


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
        pretrained = config.get("pretrained_cfg", {})
        classifier = {
            "num_classes": config["num_classes"],
            **_normalization(pretrained.get("mean"), pretrained.get("std")),
        }
    arguments = {"window_size": int(window[0])} if window else {}
    return Description("timm", backbone, arguments, variant, classifier)


def _normalization(mean, standard_deviation):
    """Arguments of a classifier, where the folder says what its images were normalised by."""
    if mean is None or standard_deviation is None:
        return {}
    return {"mean": tuple(mean), "standard_deviation": tuple(standard_deviation)}


def _distinct(names):
    """Names, with the number of its class behind each that stands twice (ImageNet's cranes)."""
    counts = collections.Counter(names)
    return [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]
