"""What a case is, and the valid files that cases are made from."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from typing import Any

import torch
from safetensors.numpy import save_file

import keras_spm
from tests import golden
from tests.helpers import randomize

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
FOLDER_WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Case:
    """A hostile file or folder, and how a user would load it.

    Attributes:
        kind: what it has in common with others.
        name: unique within the kind.
        write: function (folder, valid) that writes it into an empty folder, from what is
            valid.
        path: what is loaded, relative to the folder.
        model: name of the golden whose model takes the weights of `path`; or what has the
            `from_preset` that is called with it.
    """

    kind: str
    name: str
    write: Callable
    path: str = WEIGHTS
    model: Any = "pvt_v2"

    @property
    def key(self):
        """The name among all cases."""
        return f"{self.kind}: {self.name}"

    def prepare(self, folder):
        """Returns (the model to load into or None, function that loads and returns a model)."""
        if isinstance(self.model, str):
            model = golden.backbone(self.model)
            return model, functools.partial(_load_into, model, folder / self.path)
        return None, functools.partial(self.model.from_preset, folder / self.path)


def _load_into(model, path):
    model.load_report = keras_spm.load_torch_weights(model, path)
    return model


class Valid:
    """Small valid files of every format, written once.

    Attributes:
        folder: path where they are; `swin` there is the folder of a saved backbone, and so on.
    """

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        save_file(state(), folder / WEIGHTS)
        torch.save(tensors(), folder / "weights.pth")
        torch.save(tensors(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
        for name, model in _saved_models().items():
            randomize(model).save_to_preset(folder / name)
        for name, (golden_name, config) in _TRANSFORMERS.items():
            (folder / name).mkdir()
            save_file(state(golden_name), folder / name / FOLDER_WEIGHTS)
            _write_json(folder / name / CONFIG, config)
            _write_json(folder / name / PROCESSOR, _PROCESSOR)

    def read(self, name):
        """Returns the bytes of one of the files."""
        return (self.folder / name).read_bytes()

    def copy(self, name, folder):
        """Copies one of the folders into an existing one."""
        shutil.copytree(self.folder / name, folder, dirs_exist_ok=True)


def state(name="pvt_v2"):
    """Returns {name: array} as PyTorch code saves a model."""
    return dict(golden.state(name))


def tensors(name="pvt_v2"):
    """Returns {name: tensor} as PyTorch code saves a model."""
    return {key: torch.tensor(array) for key, array in state(name).items()}


def _saved_models():
    """{name: model whose saved folder is valid}."""
    models = {name: golden.backbone(name) for name in ("pvt", "pvt_v2", "swin_spm")}
    names = ["a", "b", "c"]
    models["classifier"] = keras_spm.ImageClassifier(golden.backbone("pvt_v2"), 3, names)
    models["detector"] = golden.detector()
    models["segmenter"] = keras_spm.SemanticSegmenter(golden.backbone("pvt_v2"), 3)
    return models


def _write_json(path, content):
    path.write_text(json.dumps(content))


_SHARED = {
    "hidden_sizes": [8, 16, 40, 64],
    "depths": [1, 1, 2, 1],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [4, 4, 2, 2],
    "layer_norm_eps": 1e-6,
    "id2label": {str(index): f"class {index}" for index in range(golden.CLASSES)},
}
_TRANSFORMERS = {
    "transformers_pvt": (
        "transformers_pvt",
        {
            **_SHARED,
            "model_type": "pvt",
            "architectures": ["PvtForImageClassification"],
            "sequence_reduction_ratios": [8, 4, 2, 1],
            "image_size": 64,
        },
    ),
    "transformers_pvt_v2": (
        "transformers_pvt_v2",
        {
            **_SHARED,
            "model_type": "pvt_v2",
            "architectures": ["PvtV2ForImageClassification"],
            "sr_ratios": [8, 4, 2, 1],
            "linear_attention": False,
        },
    ),
    "transformers_swin": (
        "transformers_swin",
        {
            "model_type": "swin",
            "architectures": ["SwinForImageClassification"],
            "embed_dim": 8,
            "depths": [2, 2, 2, 2],
            "num_heads": [1, 2, 4, 8],
            "window_size": 4,
            "mlp_ratio": 4.0,
            "id2label": _SHARED["id2label"],
        },
    ),
}
_PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
