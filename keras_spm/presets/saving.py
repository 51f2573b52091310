"""From a model to a folder, and from there to the hub."""

import json
import os
import pathlib
import shutil

from keras_spm.converters import values_of
from keras_spm.converters.hf_config import CONFIG
from keras_spm.converters.hf_config import OWN_FORMAT
from keras_spm.presets.sources import WEIGHTS
from keras_spm.presets.sources import folder_source
from keras_spm.tasks import ImageClassifier
from keras_spm.tasks import ObjectDetector
from keras_spm.tasks import SemanticSegmenter
from keras_spm.version import __version__
from keras_spm.weights import hub
from keras_spm.weights import state_dict
from keras_spm.weights.errors import FormatError
from keras_spm.weights.formats import sha256_of
from keras_spm.weights.formats import write_safetensors
from keras_spm.weights.key_mapping import OWN_DENSE_LAYOUT
from keras_spm.weights.key_mapping import OWN_LAYOUT

# What a saved configuration leaves to the one who loads it.
_PERSONAL = ("name", "trainable", "backbone")

# What the hub calls what a model does; a bare backbone makes features.
_PIPELINES = {
    ImageClassifier: "image-classification",
    ObjectDetector: "object-detection",
    SemanticSegmenter: "image-segmentation",
}

_README = """\
---
library_name: keras-spm
pipeline_tag: {pipeline}
tags: [keras, jax, tensorflow, pytorch]
---
A `{backbone}` for Keras 3, saved by keras_spm {version}:

```python
model = keras_spm.{cls}.from_preset("…")  # this folder, or hf://owner/name
```
"""


def save_preset(model, folder):
    """Saves a model as a folder; `save_to_preset` says it all."""
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already and is not an empty folder.")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        write_safetensors(unfinished / WEIGHTS, own_arrays(model))
        config = _config(model, sha256_of(unfinished / WEIGHTS))
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (unfinished / "README.md").write_text(_readme(model))
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def upload_preset(folder, address, private=False):
    """Uploads a folder of `save_to_preset` to the hub, for `from_preset("hf://owner/name")`.

    Who you are, huggingface_hub knows (`hf auth login`, or the environment's HF_TOKEN).

    Args:
        folder: path.
        address: `"hf://owner/name"`; the repository is made where there is none.
        private: bool, whether a new repository is.

    Returns:
        Address of the commit, `"hf://owner/name@…"`.

    Raises:
        keras_spm.weights.FormatError: for a folder that is no whole preset of ours;
            nothing is uploaded then.
        FileNotFoundError: for a folder without a file that it needs.
        ValueError: for an address that is none.
        huggingface_hub.errors.HfHubHTTPError: where the hub refuses.
    """
    source = folder_source(folder)
    layout = source.description.layout
    if layout != OWN_FORMAT:
        raise FormatError(f"{folder} is in the form of {layout}: load it, and save the model.")
    source.read()  # Refuses what is damaged.
    return hub.upload_folder(folder, address, private)


def own_layout(model):
    """The layout of our own files that a model's weights have."""
    is_dense = hasattr(model, "backbone") and not isinstance(model, ImageClassifier)
    return OWN_DENSE_LAYOUT if is_dense else OWN_LAYOUT


def own_arrays(model):
    """A model's weights as our own files have them."""
    return state_dict.write(values_of(model), own_layout(model))


def own_config(model):
    """A model's constructor arguments, but for its name and what it is built on."""
    return {key: value for key, value in model.get_config().items() if key not in _PERSONAL}


def _config(model, sha256):
    backbone = getattr(model, "backbone", model)
    return {
        "format": OWN_FORMAT,
        "version": __version__,
        "backbone": {
            "class": type(backbone).__name__,
            "config": {**own_config(backbone), "dtype": backbone.dtype_policy.name},
        },
        "task": None
        if model is backbone
        else {"class": type(model).__name__, "config": own_config(model)},
        "weights": {"sha256": sha256},
    }


def _readme(model):
    return _README.format(
        pipeline=_PIPELINES.get(type(model), "image-feature-extraction"),
        backbone=type(getattr(model, "backbone", model)).__name__,
        version=__version__,
        cls=type(model).__name__,
    )
