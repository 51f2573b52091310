"""Files with LoRA alone, for models whose other weights are elsewhere."""

import hashlib
import json
import warnings
from typing import Any

import keras
import numpy as np

from keras_spm.converters.conversion import variables_of
from keras_spm.layers.adaptation import adapted_layers, dense_sublayers, lora_layers
from keras_spm.types import PathLike
from keras_spm.version import __version__
from keras_spm.weights import state_dict
from keras_spm.weights.errors import FormatError, MismatchError
from keras_spm.weights.formats import read_arrays, read_metadata, write_safetensors
from keras_spm.weights.key_mapping import Layout, SamePath

# Keys of the file's metadata.
_LAYERS, _BACKBONE = "lora_layers", "backbone_sha256"
_MATRICES = ("lora_kernel_a", "lora_kernel_b")
_LAYOUT = Layout("lora", rules=(SamePath(without=()),))


def save_lora(model: keras.Model, path: PathLike) -> None:
    """Writes LoRA and a task's own layers; see `save_lora_weights` of the model."""
    variables = _task_variables(model) | {
        variable.path: variable
        for dense in lora_layers(model).values()
        for variable in (dense.lora_kernel_a, dense.lora_kernel_b)
    }
    arrays = {name: keras.ops.convert_to_numpy(each) for name, each in variables.items()}
    arrays = {name: _to_saved(array) for name, array in arrays.items()}
    metadata = {
        _LAYERS: json.dumps(_groups(model)),
        _BACKBONE: _hash_backbone(model),
        "keras_spm": __version__,
    }
    write_safetensors(path, arrays, metadata)


def load_lora(model: keras.Model, path: PathLike) -> None:
    """Reads a file of `save_lora`; see `load_lora_weights` of the model."""
    arrays, source = read_arrays(path, prefixes=())
    metadata = read_metadata(path) if str(path).endswith(".safetensors") else {}
    groups = _read_groups(metadata, source)
    enabled = _groups(model)
    if enabled:
        _check_same(_by_layer(groups), _by_layer(enabled), source)
    # All checks come before LoRA is enabled.
    layers = dense_sublayers(model)
    expected = {
        **_task_variables(model),
        **{
            f"{name}/{matrix}": keras.KerasTensor(shape)
            for group in groups
            for name in group["layers"]
            for matrix, shape in _shapes(layers, name, group["lora_rank"], source).items()
        },
    }
    state_dict.match(expected, arrays, _LAYOUT, source)
    if invalid := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise MismatchError(f"{source}: {invalid[0]} has NaN or infinity.")
    if metadata.get(_BACKBONE) != _hash_backbone(model):
        warnings.warn(
            f"{source}: LoRA was trained on a backbone with other weights, so the outputs differ.",
            stacklevel=4,  # The caller of `load_lora_weights`.
        )
    if not enabled:
        model.adapt(groups)
    variables = variables_of(model)
    state_dict.load({name: variables[name] for name in expected}, arrays, _LAYOUT, source)


def _task_variables(model):
    """Returns {path: variable} of a task that are not its backbone's; none of a backbone."""
    variables = variables_of(model)
    backbone = variables_of(getattr(model, "backbone", model))
    return {path: variable for path, variable in variables.items() if path not in backbone}


def _groups(model):
    """Returns the groups of `adapted_layers` with LoRA, without the quantization."""
    return [
        {name: group[name] for name in ("lora_rank", "lora_alpha", "layers")}
        for group in adapted_layers(model)
        if "lora_rank" in group
    ]


def _read_groups(metadata: dict[str, str], source: str) -> list[dict[str, Any]]:
    try:
        groups = json.loads(metadata[_LAYERS])
        return [
            {
                "lora_rank": int(group["lora_rank"]),
                "lora_alpha": float(group["lora_alpha"]),
                "layers": [str(path) for path in group["layers"]],
            }
            for group in groups
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not a file of `save_lora_weights`.") from error


def _by_layer(groups):
    """Returns {path: description} of the layers with LoRA."""
    return {
        path: f"rank {group['lora_rank']}, alpha {group['lora_alpha']:g}"
        for group in groups
        for path in group["layers"]
    }


def _check_same(found, enabled, source):
    for path in sorted(found.keys() | enabled.keys()):
        if found.get(path) != enabled.get(path):
            raise MismatchError(
                f"{source} has other LoRA than the model, which can be merged by `merge_lora`. For "
                f"{path}: {found.get(path, 'none')} in the file, "
                f"{enabled.get(path, 'none')} in the model."
            )


def _shapes(layers, name, rank, source):
    """Returns {matrix: shape} of the LoRA of a dense layer."""
    if name not in layers:
        raise MismatchError(f"{source} has LoRA of {name!r}, which the model does not have.")
    inputs, outputs = layers[name].input_spec.axes[-1], layers[name].units
    return dict(zip(_MATRICES, ((inputs, rank), (rank, outputs)), strict=True))


def _hash_backbone(model):
    """Returns the sha256 of the backbone's weights without LoRA."""
    digest = hashlib.sha256()
    for path, variable in sorted(variables_of(getattr(model, "backbone", model)).items()):
        if not path.endswith(_MATRICES):
            digest.update(_to_saved(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()


def _to_saved(array):
    return array if array.dtype == "int8" else array.astype("float32")
