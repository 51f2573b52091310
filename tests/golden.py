"""Reads the reference vectors in `golden/` (made by the PyTorch reference code)."""

import functools
import json
import pathlib

from safetensors import safe_open

FOLDER = pathlib.Path(__file__).parent / "golden"

LAYERS = {"spm_layer_16_32": 32, "spm_layer_32_80": 80}
BACKBONES = ("pvt_v2", "pvt_v2_li", "pvt_v2_spm")


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
    _, config = read(name)
    arguments = {
        key: config[key] for key in ("embed_dims", "depths", "num_heads", "mlp_ratios", "sr_ratios")
    }
    return arguments | {"linear_attention": config.get("linear", False)}
