"""The repositories of the campaign's hub: a small PVT v2 of transformers, whole and in shards."""

import functools
import json
import pathlib
import shutil
import tempfile

from safetensors.numpy import save_file

import keras_spm
from tests import golden
from tests.campaigns import client

_GOLDEN = "transformers_pvt_v2"
CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
# {file with a fault: repository that is loaded}
REPOSITORIES = {
    CONFIG: "them/whole",
    PROCESSOR: "them/whole",
    WEIGHTS: "them/whole",
    INDEX: "them/sharded",
    SHARDS[1]: "them/sharded",
}


def publish(folder):
    """Writes the repositories.

    Returns:
        {name: folder}.
    """
    state = golden.state(_GOLDEN)
    folders = {name: folder / name for name in dict.fromkeys(REPOSITORIES.values())}
    for path in folders.values():
        _write_configurations(path)
    save_file(state, folders["them/whole"] / WEIGHTS)
    _write_shards(folders["them/sharded"], state)
    return folders


@functools.cache
def digest(folder, without=None):
    """Returns the hash of the model in a folder, optionally without one of its files."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = pathlib.Path(temporary) / "copy"
        shutil.copytree(folder, copy, ignore=lambda *_: {without})
        return client.digest(keras_spm.ImageClassifier.from_preset(copy))


def _write_configurations(folder):
    _, reference = golden.read(_GOLDEN)
    config = {
        "model_type": "pvt_v2",
        "architectures": ["PvtV2ForImageClassification"],
        "hidden_sizes": reference["embed_dims"],
        "num_attention_heads": reference["num_heads"],
        **{key: reference[key] for key in ("depths", "mlp_ratios", "sr_ratios", "layer_norm_eps")},
        "linear_attention": False,
        "id2label": {str(index): f"bird {index}" for index in range(golden.CLASSES)},
    }
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    (folder / PROCESSOR).write_text(json.dumps(processor, indent=2))


def _write_shards(folder, state):
    names = sorted(state)  # Later stages are wider, so the second half is larger.
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map = {}
    for shard, half in zip(SHARDS, halves, strict=True):
        save_file({name: state[name] for name in half}, folder / shard)
        weight_map |= dict.fromkeys(half, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
