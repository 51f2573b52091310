"""Saves models to folders, and uploads folders to the hub."""

import dataclasses
import json
import os
import pathlib
import shutil
import uuid

import keras
import numpy as np

from keras_spm.converters.conversion import find_layouts, values_of, variables_of
from keras_spm.converters.hf_config import CONFIG
from keras_spm.converters.validation import check_arguments
from keras_spm.layers.adaptation import ADAPTED_LAYERS, adapted_layers
from keras_spm.presets.sources import WEIGHTS, folder_source
from keras_spm.registry import HEADS
from keras_spm.types import PathLike
from keras_spm.version import __version__
from keras_spm.weights import hub, state_dict
from keras_spm.weights.errors import FormatError
from keras_spm.weights.formats import sha256_of, write_safetensors
from keras_spm.weights.key_mapping import OWN_FORMAT, Layout, SamePath, same_name

# Not saved: the names of layers and models. The backbone and the adapted layers are saved
# separately.
_NOT_SAVED = ("name", "trainable", "backbone", ADAPTED_LAYERS)

# Files of a preset's folder.
_README_NAME = "README.md"
_FILES = (CONFIG, WEIGHTS, _README_NAME)

_README = """\
---
library_name: keras-spm
pipeline_tag: {pipeline_tag}
tags: [keras, jax, tensorflow, pytorch]
---
A `{backbone}` for Keras 3, saved by keras_spm {version}:

```python
model = keras_spm.{cls}.from_preset("…")  # this folder, or hf://owner/name
```
"""


def save_preset(model: keras.Model, folder: PathLike) -> None:
    """Saves a backbone or task to a new folder; see `save_to_preset` of the model."""
    folder = pathlib.Path(folder)
    _check_is_free(folder)
    # Of this call: several threads or processes may save to the same folder.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.temporary")
    try:
        temporary.mkdir(parents=True)
        write_safetensors(temporary / WEIGHTS, own_arrays(model))
        config = _config(model, sha256_of(temporary / WEIGHTS))
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        readme = _README.format(
            pipeline_tag=getattr(model, "pipeline_tag", "image-feature-extraction"),
            backbone=type(getattr(model, "backbone", model)).__name__,
            version=__version__,
            cls=type(model).__name__,
        )
        (temporary / _README_NAME).write_text(readme)
        try:
            temporary.replace(folder)
        except OSError:
            _check_is_free(folder)  # Another thread or process was faster.
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_is_free(folder):
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already exists and is not an empty folder.")


def upload_preset(folder: PathLike, address: str, private: bool = False) -> str:
    """Uploads a folder of `save_to_preset` to the hub, for `from_preset("hf://owner/name")`.

    Only the files of `save_to_preset` are uploaded: configuration, weights and `README.md`.
    huggingface_hub must be logged in (`hf auth login`, or the environment variable HF_TOKEN).

    Args:
        folder: path.
        address: `"hf://owner/name"`; the repository is created if it does not exist.
        private: bool, whether a new repository is private.

    Returns:
        Address of the commit, `"hf://owner/name@…"`.

    Raises:
        keras_spm.weights.FormatError: if the folder is damaged or of another library, or a
            file is a link.
        FileNotFoundError: if a file is missing.
        ValueError: for an invalid address.
        huggingface_hub.errors.HfHubHTTPError: if the hub refuses.
    """
    source = folder_source(folder)
    layout = source.config.layout
    if layout != OWN_FORMAT:
        raise FormatError(f"{folder} is in the format of {layout}: load it and save the model.")
    for path in (pathlib.Path(folder, name) for name in _FILES):
        if path.is_symlink():
            raise FormatError(f"{path} is a link. Replace it by the file to upload.")
    source.read()  # Refuses damaged files.
    return hub.upload_files(folder, _FILES, address, private)


def own_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns a model's weights as this package's files have them."""
    return state_dict.export(values_of(model), own_layout(model))


def own_layout(model: keras.Model, optional: tuple[str, ...] = ()) -> Layout:
    """Returns the layout of this package's files, which may have `optional` tensors."""
    layout = find_layouts(model).own
    predictors = predictor_paths(model)
    return dataclasses.replace(
        layout,
        rules=(*layout.rules, SamePath(without=predictors)),
        head=tuple(same_name(path) for path in predictors),
        optional=(*layout.optional, *optional),
    )


def predictor_paths(model: keras.Model) -> list[str]:
    """Returns the paths of a task's variables that depend on `num_classes`."""
    layers = model.class_predictors() if hasattr(model, "class_predictors") else []
    return [variable.path for layer in layers for variable in layer.weights]


def _config(model, sha256):
    backbone = getattr(model, "backbone", model)
    backbone_config = {**_constructor_config(backbone), "dtype": backbone.dtype_policy.name}
    check_arguments(backbone_config, type(backbone).__name__)
    task = None
    if model is not backbone:
        config, own = _constructor_config(model), variables_of(backbone)
        if model.head_argument is not None:
            config[model.head_argument] = _head_config(getattr(model, model.head_argument))
        layers = {path.partition("/")[0] for path in variables_of(model) if path not in own}
        check_arguments(config, type(model).__name__)
        task = {"class": type(model).__name__, "config": config, "layers": sorted(layers)}
    groups = adapted_layers(model)
    if any("quantization_config" in group for group in groups):
        raise ValueError(
            f"{model.name!r} must be quantized with the default configuration of its mode for a "
            "preset. `model.save` saves it with any."
        )
    return {
        "format": OWN_FORMAT,
        "version": __version__,
        "backbone": {"class": type(backbone).__name__, "config": backbone_config},
        "task": task,
        **({ADAPTED_LAYERS: groups} if groups else {}),
        "weights": {"sha256": sha256},
    }


def _constructor_config(model):
    return {key: value for key, value in model.get_config().items() if key not in _NOT_SAVED}


def _head_config(head):
    config = {key: each for key, each in head.get_config().items() if key != ADAPTED_LAYERS}
    if isinstance(config.get("dtype"), dict):  # A Keras object, which presets do not contain.
        config["dtype"] = head.dtype_policy.name
    name = next((name for name, cls in HEADS.items() if cls is type(head)), None)
    if name is None:
        raise ValueError(f"{type(head).__name__} is not a registered head: {', '.join(HEADS)}.")
    return {"class": name, "config": config}
