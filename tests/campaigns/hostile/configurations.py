"""Folders whose configuration asks for what no model is, or for what no file may ask."""

import json
import math

import keras_spm
from tests.campaigns.hostile.case import CONFIG
from tests.campaigns.hostile.case import PROCESSOR
from tests.campaigns.hostile.case import Case

_ANY = keras_spm.backbones.PyramidBackbone
_CLASSIFIER = keras_spm.ImageClassifier
# Saved folder of `Valid` → the class that loads it.
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
_DIGITS = 10**4_000
_LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}},
    "registered_name": None,
}


def _text(text):
    """A change to a configuration: this text in its place."""
    return lambda config: text


def _set(*path, **changes):
    """A change to a configuration: these values, at a path of keys."""

    def change(config):
        for key in path:
            config = config[key]
        config.update(changes)

    return change


def _drop(*path):
    """A change to a configuration: the value at a path of keys is gone."""
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
    "not UTF-8": _text(b'{"format": "\xff"}'),
    "a byte order mark": lambda config: "\ufeff" + json.dumps(config),
    "UTF-16": lambda config: json.dumps(config).encode("utf-16"),
    "null": _text("null"),
    "a list": _text("[]"),
    "text": _text('"keras_spm"'),
    "a number": _text("1"),
    "100,000 brackets": _text("[" * 100_000),
    "100,000 objects": _text('{"a":' * 100_000),
    "a number of 5,000 digits": _text("9" * 5_000),
    "20 MB": lambda config: json.dumps(config) + " " * 20_000_000,
    "a key twice": lambda config: json.dumps(config).replace("{", '{"format": "keras_spm",', 1),
    "NaN somewhere": lambda config: json.dumps(config).replace("{", '{"more": NaN,', 1),
    "no keys": _text("{}"),
    "keys of something else": _text('{"torch_dtype": "float32"}'),
}

_FORMAT = {
    "weights that are a list": _set(weights=[]),
    "weights of another sha256": _set(weights={"sha256": "0" * 64}),
    "weights whose sha256 is upwards": _set(weights={"sha256": "../" * 22}),
    "weights whose sha256 is a number": _set(weights={"sha256": 0}),
    "format that is a list": _set(format=["keras_spm"]),
    "no backbone": _drop("backbone"),
    "backbone that is null": _set(backbone=None),
    "backbone that is a list": _set(backbone=[]),
    "backbone that is text": _set(backbone="PVTv2"),
    "class os.system": _set("backbone", **{"class": "os.system"}),
    "class that is a list": _set("backbone", **{"class": ["PVTv2"]}),
    "class that is an object": _set("backbone", **{"class": _LAMBDA}),
    "class that is no backbone": _set("backbone", **{"class": "ImageClassifier"}),
    "class of another family": _set("backbone", **{"class": "Swin"}),
    "class of another merging": _set("backbone", **{"class": "PVTv2SPM"}),
    "no class": _drop("backbone", "class"),
    "no arguments": _drop("backbone", "config"),
    "arguments that are null": _set("backbone", config=None),
    "arguments that are a list": _set("backbone", config=["embed_dims"]),
    "arguments that are text": _set("backbone", config="embed_dims"),
    "an unknown argument": _ours(color="red"),
    "an argument that is missing": _drop("backbone", "config", "depths"),
    "trainable": _ours(trainable=False),
    "name with a path": _ours(name="../../a"),
    "name that is an object": _ours(name=_LAMBDA),
    "self": _ours(self=1),
    "stem": _ours(stem=_LAMBDA),
    "an argument of Python's own": _ours(__class__="os.system"),
    "task that is a list": _set(task=[]),
    "task that is text": _set(task="ImageClassifier"),
    "task that is empty": _set(task={}),
    "task of an unknown class": _set(task={"class": "Lambda", "config": {"num_classes": 3}}),
    "task whose class is a list": _set(task={"class": [], "config": {"num_classes": 3}}),
    "classifier that is a list": _set(classifier=[]),
    "classifier that is text": _set(classifier="three"),
}

_PVT_V2 = {
    "embed_dims of 10**9": _ours(embed_dims=[_HUGE] * 4),
    "one of embed_dims of 10**9": _ours(embed_dims=[8, 16, 40, _HUGE]),
    "embed_dims of 4,000 digits": _ours(embed_dims=[_DIGITS] * 4),
    "embed_dims of 0": _ours(embed_dims=[0, 0, 0, 0]),
    "embed_dims below 0": _ours(embed_dims=[-8, -16, -40, -64]),
    "embed_dims of floats": _ours(embed_dims=[8.0, 16.0, 40.0, 64.0]),
    "embed_dims of text": _ours(embed_dims=["8", "16", "40", "64"]),
    "embed_dims of lists": _ours(embed_dims=[[8], [16], [40], [64]]),
    "embed_dims that is text": _ours(embed_dims="8888"),
    "embed_dims that is an object": _ours(embed_dims={"8": 1, "16": 2, "40": 3, "64": 4}),
    "embed_dims that is null": _ours(embed_dims=None),
    "embed_dims of three": _ours(embed_dims=[8, 16, 40]),
    "embed_dims of a million": _ours(embed_dims=[8] * 10**6),
    "embed_dims of true": _ours(embed_dims=[True] * 4),
    "depths of 10**6": _ours(depths=[10**6] * 4),
    "depths of 10**9 once": _ours(depths=[1, 1, _HUGE, 1]),
    "depths of 500": _ours(depths=[500] * 4),
    "depths of 0": _ours(depths=[0] * 4),
    "depths below 0": _ours(depths=[-1] * 4),
    "depths of floats": _ours(depths=[1.5] * 4),
    "num_heads of 0": _ours(num_heads=[0] * 4),
    "num_heads of 3": _ours(num_heads=[3] * 4),
    "num_heads of 10**9": _ours(num_heads=[_HUGE] * 4),
    "num_heads of text": _ours(num_heads="1258"),
    "mlp_ratios of 10**9": _ours(mlp_ratios=[_HUGE] * 4),
    "mlp_ratios of 1e308": _ours(mlp_ratios=[1e308] * 4),
    "mlp_ratios of 1e-308": _ours(mlp_ratios=[1e-308] * 4),
    "mlp_ratios below 0": _ours(mlp_ratios=[-4] * 4),
    "mlp_ratios of text": _ours(mlp_ratios=["4"] * 4),
    "mlp_ratios of infinity": _ours(mlp_ratios=[math.inf] * 4),
    "mlp_ratios of NaN": _ours(mlp_ratios=[math.nan] * 4),
    "mlp_ratios beyond floats": lambda config: json.dumps(config).replace(
        '"mlp_ratios": [4,', '"mlp_ratios": [1e999,'
    ),
    "sr_ratios of 10**6": _ours(sr_ratios=[10**6, 4, 2, 1]),
    "sr_ratios of 0": _ours(sr_ratios=[0] * 4),
    "sr_ratios of floats": _ours(sr_ratios=[0.5] * 4),
    "linear_attention of text": _ours(linear_attention="yes"),
    "drop_path_rate of NaN": _ours(drop_path_rate=math.nan),
    "drop_path_rate of 10": _ours(drop_path_rate=10),
    "drop_path_rate of text": _ours(drop_path_rate="high"),
    "merging of another kind": _ours(merging="msa"),
    "merging that is a list": _ours(merging=["default"]),
    "merging that is an object": _ours(merging=_LAMBDA),
    "embedding_norm_epsilon of 0": _ours(embedding_norm_epsilon=0),
    "embedding_norm_epsilon below 0": _ours(embedding_norm_epsilon=-1e-5),
    "embedding_norm_epsilon of text": _ours(embedding_norm_epsilon="1e-5"),
    "image_shape of 10**9": _ours(image_shape=[_HUGE, _HUGE, 3]),
    "image_shape of 10**6": _ours(image_shape=[10**6, 10**6, 3]),
    "image_shape of 10**9 channels": _ours(image_shape=[None, None, _HUGE]),
    "image_shape of two": _ours(image_shape=[None, None]),
    "image_shape below 0": _ours(image_shape=[-224, -224, 3]),
    "image_shape of text": _ours(image_shape="224"),
    "data_format of another kind": _ours(data_format="channels_middle"),
    "data_format that is a list": _ours(data_format=["channels_last"]),
    "dtype that is a Keras object": _ours(dtype=_LAMBDA),
    "dtype that is unknown": _ours(dtype="float1024"),
    "dtype of integers": _ours(dtype="int8"),
    "dtype of text": _ours(dtype="string"),
    "dtype that quantizes": _ours(dtype="int8_from_float32"),
    "dtype that is a number": _ours(dtype=32),
    "frozen_stages of 10**9": _ours(frozen_stages=_HUGE),
    "frozen_stages of text": _ours(frozen_stages="all"),
    "frozen_stages that is a list": _ours(frozen_stages=[]),
}

_PVT = {
    "pretrain_image_size of 10**9": _ours(pretrain_image_size=[_HUGE, _HUGE]),
    "pretrain_image_size of 10**5": _ours(pretrain_image_size=[10**5, 10**5]),
    "pretrain_image_size of 0": _ours(pretrain_image_size=[0, 0]),
    "pretrain_image_size of one": _ours(pretrain_image_size=[64]),
    "pretrain_image_size of text": _ours(pretrain_image_size="64"),
    "no pretrain_image_size and image_shape of 10**5": _ours(
        pretrain_image_size=None, image_shape=[10**5, 10**5, 3]
    ),
    "class_token of text": _ours(class_token="yes"),
}

_SWIN = {
    "embed_dim of 10**9": _ours(embed_dim=_HUGE),
    "embed_dim that is a list": _ours(embed_dim=[8, 16, 32, 64]),
    "window_size of 10**6": _ours(window_size=10**6),
    "window_size of 1,000": _ours(window_size=1_000),
    "image_shape of 10**6": _ours(image_shape=[10**6, 10**6, 3]),
    "window_size of 0": _ours(window_size=0),
    "window_size of a float": _ours(window_size=4.5),
    "mlp_ratio of infinity": _ours(mlp_ratio=math.inf),
    "mlp_ratio of 10**9": _ours(mlp_ratio=_HUGE),
    "embed_dims instead of embed_dim": lambda config: config["backbone"]["config"].update(
        embed_dims=[config["backbone"]["config"].pop("embed_dim")] * 4
    ),
}

_CLASSIFIERS = {
    "num_classes of 10**9": _task(num_classes=_HUGE, class_names=None),
    "num_classes of 0": _task(num_classes=0, class_names=None),
    "num_classes below 0": _task(num_classes=-3, class_names=None),
    "num_classes of a float": _task(num_classes=3.0),
    "num_classes of text": _task(num_classes="3"),
    "num_classes that is null": _task(num_classes=None),
    "num_classes that the weights lack": _task(num_classes=4, class_names=None),
    "no num_classes": _drop("task", "config", "num_classes"),
    "class_names of numbers": _task(class_names=[1, 2, 3]),
    "class_names of objects": _task(class_names=[{}, [], None]),
    "class_names that is text": _task(class_names="abc"),
    "class_names of two": _task(class_names=["a", "b"]),
    "class_names twice the same": _task(class_names=["a", "a", "b"]),
    "activation that is a Keras object": _task(activation=_LAMBDA),
    "activation that is unknown": _task(activation="os.system"),
    "dropout of NaN": _task(dropout=math.nan),
    "dropout of 2": _task(dropout=2),
    "dropout of text": _task(dropout="half"),
    "preprocessing that is text": _task(preprocessing="bicubic"),
    "preprocessing of unknown parts": _task(preprocessing={"image_size": [8, 8], "x": 1}),
    "preprocessing to 10**9 pixels": _task(preprocessing={"image_size": [_HUGE, _HUGE]}),
    "preprocessing to no size": _task(preprocessing={}),
    "preprocessing to a size below 0": _task(preprocessing={"image_size": [-8, 8]}),
    "preprocessing by an unknown interpolation": _task(
        preprocessing={"image_size": [8, 8], "interpolation": "os.system"}
    ),
    "preprocessing with a crop of NaN": _task(
        preprocessing={"image_size": [8, 8], "crop_pct": math.nan}
    ),
    "mean of NaN": _task(mean=[math.nan] * 3),
    "mean of two": _task(mean=[0.5, 0.5]),
    "mean of text": _task(mean="abc"),
    "mean of a million": _task(mean=[0.5] * 10**6),
    "std of 0": _task(std=[0, 0, 0]),
    "std below 0": _task(std=[-1, -1, -1]),
    "backbone beside the arguments": _task(backbone=_LAMBDA),
    "name that is an object": _task(name=_LAMBDA),
    "trainable of text": _task(trainable="no"),
    "an unknown argument": _task(color="red"),
}

_TRANSFORMERS = {
    "model_type that is unknown": _set(model_type="vit"),
    "model_type that is a list": _set(model_type=["pvt_v2"]),
    "hidden_sizes of 10**9": _set(hidden_sizes=[_HUGE] * 4),
    "hidden_sizes that is null": _set(hidden_sizes=None),
    "no hidden_sizes": _drop("hidden_sizes"),
    "depths of 10**6": _set(depths=[10**6] * 4),
    "architectures of a number": _set(architectures=[1]),
    "architectures that is an object": _set(architectures={"0": "a"}),
    "id2label that is a list": _set(id2label=["a", "b"]),
    "id2label of numbers": _set(id2label={"0": 1, "1": 2}),
    "id2label with a gap": _set(id2label={"0": "a", "2": "b"}),
    "id2label of 100,000": _set(id2label={str(i): f"class {i}" for i in range(100_000)}),
    "id2label of other classes": _set(id2label={"0": "a", "1": "b"}),
    "layer_norm_eps of text": _set(layer_norm_eps="small"),
}

_DETECTORS = {
    "10**9 channels": _task(head_channels=_HUGE),
    "channels of text": _task(pyramid_channels="64"),
    "10**9 convolutions": _task(num_convs=_HUGE),
    "10**9 detections": _task(max_detections=_HUGE),
    "anchors of NaN": _task(anchor_scale=math.nan),
    "a format that is a list": _task(bounding_box_format=["xyxy"]),
    "an unknown format": _task(bounding_box_format="os.system"),
    "a loss that is a layer": _task(box_loss=_LAMBDA),
    "an unknown loss": _task(box_loss="l3"),
    "thresholds of text": _task(score_threshold="0.5"),
    "batching that is text": _task(batching="large"),
    "batching by an unknown part": _task(batching={"x": 1}),
    "batching to a side below 0": _task(batching={"min_size": -8}),
    "batching by a divisor of 0": _task(batching={"size_divisor": 0}),
    "another number of classes": _task(num_classes=5),
    "an argument of a classifier": _task(activation="relu"),
    "another task": _set("task", **{"class": "SemanticSegmenter"}),
}
_SEGMENTERS = {
    "10**9 classes": _task(num_classes=_HUGE),
    "an ignored class of text": _task(ignore_class="all"),
    "dropout of 2": _task(dropout=2),
}

_PROCESSORS = {
    "processor that is a list": _text("[]"),
    "processor that is null": _text("null"),
    "processor of 100,000 brackets": _text("[" * 100_000),
    "processor with image_std of 0": _set(image_std=[0, 0, 0]),
    "processor with a size of text": _set(size="large", resample=2),
    "processor with a size of 10**9": _set(size=_HUGE, resample=2),
    "processor with a size of 0": _set(
        size={"shortest_edge": 0}, crop_size=8, do_center_crop=True, resample=2
    ),
    "processor with a size that is a list": _set(size=[8, 8], resample=2),
    "processor with a width of text": _set(size={"height": 8, "width": "8"}, resample=2),
    "processor with an interpolation that is a list": _set(size=8, resample=[2]),
    "processor with image_mean of text": _set(image_mean="abc"),
    "processor with image_mean of infinity": _text(
        '{"image_mean": [1e999,1,1], "image_std": [1,1,1]}'
    ),
}


# Nothing to compare these with, where no weights are asked for.
_UNSEEN = {
    "embed_dims of 10**9 without weights": _ours(embed_dims=[_HUGE] * 4),
    "embed_dims of 10**5 without weights": _ours(embed_dims=[10**5] * 4),
    "depths of 10**6 without weights": _ours(depths=[10**6] * 4),
    "image_shape of 10**9 channels without weights": _ours(image_shape=[None, None, _HUGE]),
    "dtype that is a Keras object without weights": _ours(dtype=_LAMBDA),
}


def _timm(**changes):
    config = {"architecture": "pvt_v2_b0", "num_classes": 7, "pretrained_cfg": {}, **changes}
    return lambda _: json.dumps(config)


_TIMM = {
    "architecture that is unknown": _timm(architecture="resnet50"),
    "architecture that is a number": _timm(architecture=50),
    "architecture that is not the weights'": _timm(),
    "architecture of a window of 10**6": _timm(architecture="swin_tiny_patch4_window1000000_224"),
    "architecture of a window of 5,000 digits": _timm(
        architecture=f"swin_tiny_patch4_window{'9' * 5_000}_224"
    ),
    "architecture of a window of 0": _timm(architecture="swin_tiny_patch4_window0_224"),
    "num_classes of 10**9": _timm(num_classes=_HUGE),
    "num_classes of text": _timm(num_classes="seven"),
    "pretrained_cfg that is null": _timm(pretrained_cfg=None),
    "pretrained_cfg of a crop of 0": _timm(
        pretrained_cfg={"input_size": [3, 8, 8], "crop_pct": 0, "interpolation": "bicubic"}
    ),
    "pretrained_cfg of a size of text": _timm(
        pretrained_cfg={"input_size": "388", "crop_pct": 0.9, "interpolation": "bicubic"}
    ),
    "label_names that are a number": _timm(label_names=7),
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
