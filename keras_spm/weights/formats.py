"""Reads weight files and mappings as {name: numpy array}, without running code from them."""

import hashlib
import os
import pathlib
import re
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from keras_spm.files import atomic_write
from keras_spm.types import PathLike
from keras_spm.weights.errors import FormatError, join_names, shorten
from keras_spm.weights.files import (
    check_header_size,
    check_is_file,
    parse_json,
    read_json,
    read_start,
)
from keras_spm.weights.torch_files import check_views, plain_dict, read_torch

INDEX_SUFFIX = ".index.json"

# Weight files of a folder, in order of preference, as transformers names them.
WEIGHT_FILES = tuple(
    f"{name}{index}"
    for name in ("model.safetensors", "pytorch_model.bin")
    for index in ("", INDEX_SUFFIX)
)
# Keys under which training code saves the weights, in timm's order of preference.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_MAX_WRAPPERS = 3  # One in the other: a pickle can contain itself.
# Prefixes of names: of parallel training and averages, and of `torch.compile`.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# Not a weight: the counter of torch.optim.swa_utils.AveragedModel, which has no prefix.
_AVERAGES_COUNTER = "n_averaged"

# Shards are in the same folder as their index.
_SHARD = re.compile(r"[\w.-]{1,200}", re.ASCII)


def read_arrays(
    source: PathLike | Mapping, prefixes: tuple[str, ...] = WRAPPER_PREFIXES
) -> tuple[dict[str, np.ndarray], str]:
    """Reads named arrays.

    The wrappers `{"model": …}` and `{"state_dict": …}` are unwrapped. Other entries are ignored,
    but moving averages, `"model_ema"` and `"state_dict_ema"`, are preferred to the weights.
    Prefixes that all names have are removed.

    Args:
        source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, of an index
            (`….index.json`) of such files, or of a folder with a `model.safetensors` or
            `pytorch_model.bin`, whole or indexed; or a mapping of names to arrays.
        prefixes: of names, by default `module.` and `_orig_mod.`; see `strip_prefixes`.

    Returns:
        ({name: array} in the source's own dtypes, name of the source for messages and reports,
        with the wrappers and prefixes).

    Raises:
        FileNotFoundError: if there is no such file.
        FormatError: if it does not have named arrays.
    """
    if isinstance(source, Mapping):
        contents, description = source, "the mapping"
    elif isinstance(source, (str, os.PathLike)):
        path = _find_in_folder(pathlib.Path(source))
        contents, description = _read_file(path), str(path)
    else:
        raise FormatError(
            f"`source` must be a path or a mapping of arrays. Received: {type(source).__name__}"
        )
    contents = plain_dict(contents)
    for _ in range(_MAX_WRAPPERS):
        found = [key for key in _WRAPPERS if isinstance(contents.get(key), Mapping)]
        if found:
            contents, description = plain_dict(contents[found[0]]), f"{description}[{found[0]!r}]"
    if invalid := [name for name in contents if not isinstance(name, str)]:
        raise FormatError(
            f"{description} has names that are not strings: {join_names(map(repr, invalid))}."
        )
    contents, description = strip_prefixes(contents, description, prefixes)
    arrays = {name: _to_array(name, value, description) for name, value in contents.items()}
    check_views(contents.values(), description)
    return arrays, description


def strip_prefixes(
    tensors: dict[str, Any], source: str, prefixes: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    """Removes prefixes that all names have, in any order and number.

    Returns ({name: tensor}, name of the source with the prefixes removed).
    """
    names = [name for name in tensors if name != _AVERAGES_COUNTER]
    removed = ""
    while common := [
        prefix
        for prefix in prefixes
        if names and all(name.startswith(prefix, len(removed)) for name in names)
    ]:
        removed += common[0]
    if not removed:
        return tensors, source
    stripped = {name[len(removed) :]: tensors[name] for name in names}
    return stripped, f"{source} without the prefix {removed!r}"


def write_safetensors(
    path: PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes {name: array} to a `.safetensors` file; no partial file is left on failure.

    The metadata also declare PyTorch tensors, which transformers requires.
    """
    from safetensors.numpy import save

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise FormatError(f"`path` must end in .safetensors. Received: {path}")
    with atomic_write(path) as temporary:
        # Not `save_file`, which makes files that only their owner can read.
        temporary.write_bytes(save(arrays, metadata={"format": "pt", **(metadata or {})}))


def read_metadata(path: PathLike) -> dict[str, str]:
    """Returns the metadata of a `.safetensors` file that `read_arrays` accepted."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def sha256_of(path: PathLike) -> str:
    """Returns the sha256 of a file in hexadecimal."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_names(path: pathlib.Path) -> list[str]:
    """Returns the file names in an index; none for any other weight file."""
    return sorted(set(_weight_map(path).values())) if path.name.endswith(INDEX_SUFFIX) else []


def _find_in_folder(path):
    if not os.path.isdir(path):
        return path
    found = [path / name for name in WEIGHT_FILES if os.path.lexists(path / name)]
    if not found:
        raise FileNotFoundError(f"The folder {path} has none of {', '.join(WEIGHT_FILES)}.")
    return found[0]


def _read_file(path):
    check_is_file(path, "weight file")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    if path.suffix not in _READERS:
        raise FormatError(
            f"{path}: the suffix of a weight file must be one of "
            f"{', '.join((*_READERS, INDEX_SUFFIX))}. Received: {path.suffix!r}"
        )
    return _READERS[path.suffix](path)


def _weight_map(path):
    index = read_json(path, "index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(map(_is_shard, weight_map.values())):
        raise FormatError(f"{path}: `weight_map` must map tensors to files in the same folder.")
    return weight_map


def _is_shard(name):
    """Whether an index may list this name: a weight file, but not another index."""
    is_name = isinstance(name, str) and _SHARD.fullmatch(name) is not None
    return is_name and pathlib.PurePath(name).suffix in _READERS


def _read_shards(path):
    """Reads the shards of an index, which must have exactly the tensors that it lists."""
    weight_map = _weight_map(path)
    arrays = {}
    for shard in sorted(set(weight_map.values())):
        contents = _read_file(path.with_name(shard))
        if duplicates := sorted(contents.keys() & arrays.keys(), key=str):
            raise FormatError(
                f"{path}: [{join_names(map(repr, duplicates))}] are in {shard} and in another "
                "shard."
            )
        if unlisted := [name for name in contents if weight_map.get(name) != shard]:
            raise FormatError(
                f"{path.with_name(shard)} has [{join_names(map(repr, unlisted))}], "
                f"which {path.name} does not list there."
            )
        arrays |= contents
    if missing := sorted(weight_map.keys() - arrays.keys()):
        raise FormatError(f"{path}: [{join_names(map(repr, missing))}] are in none of its shards.")
    return arrays


def _read_safetensors(path):
    from safetensors import safe_open

    _check_safetensors_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # Many types, for dtypes and shapes that numpy does not have.
        raise FormatError(f"{path} is not a valid safetensors file: {shorten(error)}") from error


def _check_safetensors_header(path):
    """Refuses duplicate keys, which the safetensors library accepts silently."""
    start, size = read_start(path, 8), path.stat().st_size
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
    if length is None or length > size - 8:
        raise FormatError(f"{path} is not a safetensors file, or is truncated ({size} bytes).")
    check_header_size(path, length, "safetensors header")
    parse_json(path, read_start(path, 8 + length)[8:], "safetensors header")


_READERS = {
    ".safetensors": _read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
}


def _to_array(name, value, source):
    # Attributes are looked up on the class: those of the object may come from a pickle.
    try:
        if hasattr(type(value), "detach"):  # A torch tensor; NumPy does not know bfloat16.
            value = value.detach().cpu()
            if str(value.dtype) == "torch.bfloat16":
                return value.float().numpy().astype(ml_dtypes.bfloat16)
        array = np.asarray(value) if hasattr(type(value), "__array__") else None
    except Exception as error:  # Many types, for sparse, quantized and meta tensors.
        raise FormatError(
            f"{source}: {shorten(repr(name))} is not a dense array: {shorten(error)}"
        ) from error
    if array is None or array.dtype == object or array.dtype.kind in "US":
        kind = type(value).__name__
        raise FormatError(f"{source}: {shorten(repr(name))} is a {kind}, not an array.")
    return array
