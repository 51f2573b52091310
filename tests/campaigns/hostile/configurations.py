"""Folders with invalid, oversized or malicious configurations."""

import json
import math

import keras_spm
from tests.campaigns.hostile.case import CONFIG, PROCESSOR, Case

_ANY = keras_spm.backbones.PyramidBackbone
_CLASSIFIER = keras_spm.ImageClassifier
# {folder of `Valid`: class that loads it}
_CLASSES = {
    "pvt": keras_spm.PVT,
    "pvt_v2": keras_spm.PVTv2,
    "swin_spm": keras_spm.SwinSPM,
    "classifier": _CLASSIFIER,
    "detector": keras_spm.ObjectDetector,
    "segmenter": keras_spm.SemanticSegmenter,
    "transformers_pvt": _CLASSIFIER,
    "transformers_pvt_v2": _CLASSIFIER,
    "transformers_swin": _CLASSIFIER,
}
_HUGE = 10**9
_LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}},
    "registered_name": None,
}


def _text(text):
    """Replaces a configuration with a text."""
    return lambda config: text


def _set(*path, **changes):
    """Changes values at a path of keys."""

    def change(config):
        for key in path:
            config = config[key]
        config.update(changes)

    return change


def _drop(*path):
    """Removes the value at a path of keys."""
    *path, last = path

    def change(config):
        for key in path:
            config = config[key]
        del config[last]

    return change


def _ours(**changes):
    return _set("backbone", "config", **changes)


def _task(**changes):
    return _set("task", "config", **changes)


class _WithoutWeights:
    """The class's `from_preset` with `load_weights=False`."""

    def __init__(self, cls):
        self._class = cls

    def from_preset(self, path):
        return self._class.from_preset(path, load_weights=False)


def _write(name, change, folder_name=CONFIG):
    def write(folder, valid):
        valid.copy(name, folder)
        path = folder / folder_name
        config = json.loads(path.read_text())
        changed = change(config)
        if isinstance(changed, (bytes, str)):
            path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        else:
            path.write_text(json.dumps(config if changed is None else changed))

    return write


_JSON = {
    "no bytes": _text(""),
    "a list": _text("[]"),
    "100,000 brackets": _text("[" * 100_000),
    "a key twice": lambda config: json.dumps(config).replace("{", '{"format": "keras_spm",', 1),
    "NaN somewhere": lambda config: json.dumps(config).replace("{", '{"more": NaN,', 1),
    "keys of something else": _text('{"torch_dtype": "float32"}'),
}

_FORMAT = {
    "weights of another sha256": _set(weights={"sha256": "0" * 64}),
    "weights whose sha256 is upwards": _set(weights={"sha256": "../" * 22}),
    "backbone that is null": _set(backbone=None),
    "class os.system": _set("backbone", **{"class": "os.system"}),
    "class that is a list": _set("backbone", **{"class": ["PVTv2"]}),
    "class that is an object": _set("backbone", **{"class": _LAMBDA}),
    "class that is no backbone": _set("backbone", **{"class": "ImageClassifier"}),
    "class of another family": _set("backbone", **{"class": "Swin"}),
    "class of another merging": _set("backbone", **{"class": "PVTv2SPM"}),
    "arguments that are a list": _set("backbone", config=["embed_dims"]),
    "an unknown argument": _ours(color="red"),
    "an argument that is missing": _drop("backbone", "config", "depths"),
    "name with a path": _ours(name="../../a"),
    "name that is an object": _ours(name=_LAMBDA),
    "an argument of Python's own": _ours(__class__="os.system"),
    "task that is a list": _set(task=[]),
    "task of an unknown class": _set(
        task={"class": "Lambda", "config": {"num_classes": 3}, "layers": []}
    ),
    "task whose class is a list": _set(task={"class": [], "config": {"num_classes": 3}}),
}

_PVT_V2 = {
    "embed_dims of 10**9": _ours(embed_dims=[_HUGE] * 4),
    "embed_dims of text": _ours(embed_dims=["8", "16", "40", "64"]),
    "embed_dims of three": _ours(embed_dims=[8, 16, 40]),
    "depths of 10**6": _ours(depths=[10**6] * 4),
    "mlp_ratios of NaN": _ours(mlp_ratios=[math.nan] * 4),
    "mlp_ratios beyond floats": lambda config: json.dumps(config).replace(
        '"mlp_ratios": [4,', '"mlp_ratios": [1e999,'
    ),
    "sr_ratios of 0": _ours(sr_ratios=[0] * 4),
    "merging of another kind": _ours(merging="msa"),
    "merging that is an object": _ours(merging=_LAMBDA),
    "data_format of another kind": _ours(data_format="channels_middle"),
    "dtype that is a Keras object": _ours(dtype=_LAMBDA),
    "dtype of integers": _ours(dtype="int8"),
    "dtype that quantizes": _ours(dtype="int8_from_float32"),
}

_PVT = {
    "pretrain_image_size of 10**5": _ours(pretrain_image_size=[10**5, 10**5]),
    "class_token of text": _ours(class_token="yes"),
}

_SWIN = {
    "embed_dim of 10**9": _ours(embed_dim=_HUGE),
    "window_size of 1,000": _ours(window_size=1_000),
    "window_size of 0": _ours(window_size=0),
    "mlp_ratio of infinity": _ours(mlp_ratio=math.inf),
    "embed_dims instead of embed_dim": lambda config: config["backbone"]["config"].update(
        embed_dims=[config["backbone"]["config"].pop("embed_dim")] * 4
    ),
}

_CLASSIFIERS = {
    "num_classes of 10**9": _task(num_classes=_HUGE, class_names=None),
    "num_classes of a float": _task(num_classes=3.0),
    "num_classes that the weights lack": _task(num_classes=4, class_names=None),
    "no num_classes": _drop("task", "config", "num_classes"),
    "class_names of two": _task(class_names=["a", "b"]),
    "class_names twice the same": _task(class_names=["a", "a", "b"]),
    "activation that is a Keras object": _task(activation=_LAMBDA),
    "activation that is unknown": _task(activation="os.system"),
    "preprocessing of unknown parts": _task(preprocessing={"image_size": [8, 8], "x": 1}),
    "preprocessing by an unknown interpolation": _task(
        preprocessing={"image_size": [8, 8], "interpolation": "os.system"}
    ),
    "mean of two": _task(mean=[0.5, 0.5]),
    "mean of a million": _task(mean=[0.5] * 10**6),
    "backbone beside the arguments": _task(backbone=_LAMBDA),
    "name that is an object": _task(name=_LAMBDA),
    "an unknown argument": _task(color="red"),
}

_TRANSFORMERS = {
    "model_type that is unknown": _set(model_type="vit"),
    "model_type that is a list": _set(model_type=["pvt_v2"]),
    "hidden_sizes of 10**9": _set(hidden_sizes=[_HUGE] * 4),
    "no hidden_sizes": _drop("hidden_sizes"),
    "id2label that is a list": _set(id2label=["a", "b"]),
    "id2label with a gap": _set(id2label={"0": "a", "2": "b"}),
    "id2label of other classes": _set(id2label={"0": "a", "1": "b"}),
    "layer_norm_eps of text": _set(layer_norm_eps="small"),
}

_DETECTORS = {
    "10**9 channels": _task(head_channels=_HUGE),
    "a loss that is a layer": _task(box_loss=_LAMBDA),
    "an unknown loss": _task(box_loss="l3"),
    "batching by an unknown part": _task(batching={"x": 1}),
    "another number of classes": _task(num_classes=5),
    "an argument of a classifier": _task(activation="relu"),
}
_SEGMENTERS = {"10**9 classes": _task(num_classes=_HUGE)}

_PROCESSORS = {
    "processor that is a list": _text("[]"),
    "processor with an interpolation that is a list": _set(size=8, resample=[2]),
    "processor with image_mean of text": _set(image_mean="abc"),
    "processor with image_mean of infinity": _text(
        '{"image_mean": [1e999,1,1], "image_std": [1,1,1]}'
    ),
}


# Loaded without weights.
_UNSEEN = {
    "embed_dims of 10**5 without weights": _ours(embed_dims=[10**5] * 4),
    "depths of 10**6 without weights": _ours(depths=[10**6] * 4),
    "dtype that is a Keras object without weights": _ours(dtype=_LAMBDA),
}


def _timm(**changes):
    config = {"architecture": "pvt_v2_b0", "num_classes": 7, "pretrained_cfg": {}, **changes}
    return lambda _: json.dumps(config)


_TIMM = {
    "architecture that is unknown": _timm(architecture="resnet50"),
    "architecture that is a number": _timm(architecture=50),
    "architecture that is not the weights'": _timm(),
    "architecture of a window of 5,000 digits": _timm(
        architecture=f"swin_tiny_patch4_window{'9' * 5_000}_224"
    ),
    "num_classes of text": _timm(num_classes="seven"),
    "pretrained_cfg of odd means": _timm(pretrained_cfg={"mean": {"a": 1}, "std": "b"}),
}


def _cases(kind, folder, changes, path=CONFIG, cls=None):
    for name, change in changes.items():
        yield Case(
            kind, f"{name} ({folder})", _write(folder, change, path), ".", cls or _CLASSES[folder]
        )


CASES = (
    *_cases("configuration's JSON", "pvt_v2", _JSON),
    *_cases("configuration", "pvt_v2", _FORMAT),
    *_cases("configuration", "pvt_v2", _PVT_V2),
    *_cases("configuration", "pvt_v2", _UNSEEN, cls=_WithoutWeights(keras_spm.PVTv2)),
    *_cases("configuration", "pvt", _PVT),
    *_cases("configuration", "swin_spm", _SWIN),
    *_cases("configuration", "classifier", _CLASSIFIERS),
    *_cases("configuration", "detector", _DETECTORS),
    *_cases("configuration", "segmenter", _SEGMENTERS),
    *_cases("configuration of transformers", "transformers_pvt_v2", _TRANSFORMERS),
    *_cases("configuration of transformers", "transformers_pvt_v2", _PROCESSORS, PROCESSOR),
    *_cases(
        "configuration of transformers",
        "transformers_pvt",
        {
            "image_size of 10**9": _set(image_size=_HUGE),
            "image_size of text": _set(image_size="64"),
            "image_size of three": _set(image_size=[64, 64, 64]),
            "image_size that is an object": _set(image_size={"height": 64, "width": 64}),
        },
    ),
    *_cases(
        "configuration of transformers",
        "transformers_swin",
        {
            "window_size of 10**6": _set(window_size=10**6),
            "window_size that is a list": _set(window_size=[4, 4]),
            "embed_dim of 10**9": _set(embed_dim=_HUGE),
            "mlp_ratio of NaN": _set(mlp_ratio=math.nan),
        },
    ),
    *_cases("configuration of timm", "pvt_v2", _TIMM, cls=_ANY),
)
