"""Reads the reference vectors in `golden/` (made by the PyTorch reference code)."""

import functools
import json
import pathlib

import keras
from safetensors import safe_open

import keras_spm
from tests.helpers import conv_backbone, randomize

FOLDER = pathlib.Path(__file__).parent / "golden"

LAYERS = {"spm_layer_16_32": 32, "spm_layer_32_80": 80}

# name → (class, layout of the state dict)
BACKBONES = {
    "pvt": (keras_spm.PVT, "official"),
    "pvt_spm": (keras_spm.PVTSPM, "official"),
    "transformers_pvt": (keras_spm.PVT, "transformers"),
    "pvt_v2": (keras_spm.PVTv2, "official"),
    "pvt_v2_li": (keras_spm.PVTv2, "official"),
    "pvt_v2_spm": (keras_spm.PVTv2SPM, "official"),
    "timm_pvt_v2": (keras_spm.PVTv2, "timm"),
    "transformers_pvt_v2": (keras_spm.PVTv2, "transformers"),
    "official_swin": (keras_spm.Swin, "official"),
    "timm_swin": (keras_spm.Swin, "timm"),
    "transformers_swin": (keras_spm.Swin, "transformers"),
    "swin_spm": (keras_spm.SwinSPM, "timm"),
}
CLASSES = 7

# Our names for what the references' configurations say.
_ARGUMENTS = {
    **{
        name: name
        for name in (
            *("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios"),
            *("embed_dim", "window_size"),
        )
    },
    "linear": "linear_attention",
    "layer_norm_eps": "embedding_norm_epsilon",
}


@functools.cache
def read(name):
    """Returns (arrays, configuration) of a golden file."""
    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return arrays, json.loads(file.metadata()["config"])


def state(name):
    """Returns the reference model's state dict."""
    arrays, _ = read(name)
    prefix = "state."
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


def backbone_arguments(name):
    """Returns our constructor arguments for a golden's configuration."""
    cls, _ = BACKBONES[name]
    _, config = read(name)
    arguments = {_ARGUMENTS[key]: value for key, value in config.items() if key in _ARGUMENTS}
    if issubclass(cls, keras_spm.PVT):
        arguments["pretrain_image_size"] = (config["image_size"], config["image_size"])
    return arguments


def backbone(name, /, **overrides):
    """Returns our backbone of a golden's configuration, with random weights."""
    cls, _ = BACKBONES[name]
    return cls(**{**backbone_arguments(name), **overrides})


def short_backbone(name, /, **overrides):
    """Returns one with a block a stage, for where more of the same only take time."""
    return backbone(name, depths=(1, 1, 1, 1), **overrides)


def two_stage_backbone(name, /, **overrides):
    """Returns one with the first and the last stage, which have one of each kind of layer."""
    cls, _ = BACKBONES[name]
    # The channels of Swin's stages are not arguments, and its heads must divide them.
    stages = slice(2) if issubclass(cls, keras_spm.Swin) else slice(None, None, 3)
    arguments = {
        key: value[stages] if isinstance(value, list) else value
        for key, value in backbone_arguments(name).items()
    }
    return cls(**{**arguments, "depths": (2, 1), **overrides})


def classifier(name, /, **overrides):
    """Returns our classifier of a golden's configuration, with random weights.

    The goldens' images are already normalized. This normalization only divides by 255, so the
    classifier takes 255 times the images.
    """
    return keras_spm.ImageClassifier(
        backbone(name, **overrides), CLASSES, mean=(0, 0, 0), std=(1, 1, 1)
    )


def segmenter(name="pvt_v2", num_classes=3, **arguments):
    """Returns a small segmenter on the backbone of a golden, with initial weights."""
    decoder = keras_spm.heads.SemanticFPN(pyramid_channels=8, channels=8)
    return keras_spm.SemanticSegmenter(short_backbone(name), num_classes, decoder, **arguments)


def detector(name="pvt_v2", num_classes=3, class_names=None, **arguments):
    """Returns a small detector on the backbone of a golden, with initial weights.

    The arguments are those of `RetinaNet`.
    """
    small = {"pyramid_channels": 8, "channels": 8, "num_convs": 1, "max_detections": 5}
    head = keras_spm.heads.RetinaNet(**{**small, **arguments})
    return keras_spm.ObjectDetector(short_backbone(name), num_classes, head, class_names)


def random_detector(name="pvt_v2", **arguments):
    """Returns a small detector with known random weights, which detects many objects."""
    return randomize_task(detector(name, score_threshold=0.3, **arguments))


def randomize_task(model):
    """Assigns known random weights to a task on a feature pyramid."""
    randomize(model)
    for variable in model.weights:
        if variable.path.startswith(("decoder/", "detector/")):
            # Smaller, or many scores would be exactly 1 and have no order.
            variable.assign(keras.ops.convert_to_numpy(variable) * 0.2)
    return model


def distinct_detector(class_names=None, **arguments):
    """Returns a detector that compiles fast, whose scores differ more than by rounding."""
    small = {"pyramid_channels": 8, "channels": 8, "num_convs": 1, "score_threshold": 0.3}
    head = keras_spm.heads.RetinaNet(**{**small, **arguments})
    model = randomize_task(keras_spm.ObjectDetector(conv_backbone(), 3, head, class_names))
    for variable in head.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(keras.ops.convert_to_numpy(variable) * 3)
    return model
