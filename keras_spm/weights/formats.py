"""From files or a mapping to {name: numpy array}, without running anything in them."""

import collections.abc
import hashlib
import os
import pathlib
import re
import struct

import ml_dtypes
import numpy as np

from keras_spm.weights.errors import FormatError
from keras_spm.weights.files import check_description
from keras_spm.weights.files import check_is_file
from keras_spm.weights.files import parse_json
from keras_spm.weights.files import read_json
from keras_spm.weights.files import read_start
from keras_spm.weights.messages import listed
from keras_spm.weights.messages import shortened
from keras_spm.weights.torch_files import check_views
from keras_spm.weights.torch_files import plain
from keras_spm.weights.torch_files import read_torch

INDEX_SUFFIX = ".index.json"

# What a folder may hold, the first found counts: the names that transformers writes.
WEIGHT_FILES = tuple(
    f"{name}{index}"
    for name in ("model.safetensors", "pytorch_model.bin")
    for index in ("", INDEX_SUFFIX)
)
# Where training code puts the weights in a checkpoint, and what wrappers put before names.
_WRAPPERS = ("model", "state_dict")
_WRAPPER_PREFIX = "module."

# A file of an index's own folder, and of no other.
_SHARD = re.compile(r"[\w.-]{1,200}", re.ASCII)


def read_arrays(source):
    """Reads named arrays.

    Seen through are the wrappers `{"model": …}` and `{"state_dict": …}` (the rest of such
    a checkpoint is not looked at) and a `module.` before every name.

    Args:
        source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, of an index
            (`….index.json`) of several such files, or of a folder with a `model.safetensors`
            or `pytorch_model.bin`, whole or indexed; or a mapping of names to arrays
            (numpy's, torch tensors, or of any class that has `__array__`).

    Returns:
        (arrays, description): {name: array} in the source's own dtypes, and what to call
        the source in messages.

    Raises:
        FileNotFoundError: for a path where there is no file.
        FormatError: for anything that does not hold named arrays.
    """
    if isinstance(source, collections.abc.Mapping):
        contents, description = source, "the mapping"
    elif isinstance(source, (str, os.PathLike)):
        path = _in_folder(pathlib.Path(source))
        contents, description = _read_file(path), str(path)
    else:
        raise FormatError(
            f"`source` must be a path or a mapping of arrays. Received: {type(source).__name__}"
        )
    contents = plain(contents)
    for wrapper in _WRAPPERS:
        if isinstance(contents.get(wrapper), collections.abc.Mapping):
            contents, description = plain(contents[wrapper]), f"{description}[{wrapper!r}]"
    if odd := [name for name in contents if not isinstance(name, str)]:
        raise FormatError(f"{description} has names that are no text: {listed(map(repr, odd))}.")
    if contents and all(name.startswith(_WRAPPER_PREFIX) for name in contents):
        contents = {name.removeprefix(_WRAPPER_PREFIX): contents[name] for name in contents}
    arrays = {name: _to_array(name, value, description) for name, value in contents.items()}
    check_views(contents.values(), description)
    return arrays, description


def write_safetensors(path, arrays):
    """Writes {name: numpy array} to a `.safetensors` file, whole or not at all.

    The metadata say that the tensors are PyTorch's, as transformers asks.

    Raises:
        FormatError: for a path that ends in anything else.
        OSError: where it cannot be written.
    """
    from safetensors.numpy import save

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise FormatError(f"`path` must end in .safetensors. Received: {path}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        # Not `save_file`, whose files only their owner may read.
        unfinished.write_bytes(save(arrays, metadata={"format": "pt"}))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def sha256_of(path):
    """Returns the sha256 of a file's bytes, in hexadecimal."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_folder(path):
    if not os.path.isdir(path):
        return path
    found = [path / name for name in WEIGHT_FILES if os.path.lexists(path / name)]
    if not found:
        raise FileNotFoundError(f"The folder {path} holds none of {', '.join(WEIGHT_FILES)}.")
    return found[0]


def _read_file(path):
    check_is_file(path, "weight file")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    if path.suffix not in _READERS:
        raise FormatError(
            f"{path}: weights are read from {', '.join((*_READERS, INDEX_SUFFIX))}, "
            f"not from {path.suffix!r}."
        )
    return _READERS[path.suffix](path)


def shard_names(path):
    """Names of the files that an index names; none for any other weight file."""
    return sorted(set(_weight_map(path).values())) if path.name.endswith(INDEX_SUFFIX) else []


def _weight_map(path):
    index = read_json(path, "index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(map(_is_shard, weight_map.values())):
        raise FormatError(f"{path}: `weight_map` must map tensors to files in the same folder.")
    return weight_map


def _is_shard(name):
    """Whether an index may name this: a weight file, and no index again."""
    return (
        isinstance(name, str)
        and _SHARD.fullmatch(name) is not None
        and pathlib.PurePath(name).suffix in _READERS
    )


def _read_shards(path):
    """Reads the files that an index names: each tensor where the index says, no other."""
    weight_map = _weight_map(path)
    arrays = {}
    for shard in sorted(set(weight_map.values())):
        contents = _read_file(path.with_name(shard))
        if twice := sorted(contents.keys() & arrays.keys(), key=str):
            raise FormatError(
                f"{path}: [{listed(map(repr, twice))}] stand in {shard} and in another shard."
            )
        if unlisted := [name for name in contents if weight_map.get(name) != shard]:
            raise FormatError(
                f"{path.with_name(shard)} holds [{listed(map(repr, unlisted))}], "
                f"which {path.name} does not list there."
            )
        arrays |= contents
    if missing := sorted(weight_map.keys() - arrays.keys()):
        raise FormatError(f"{path}: [{listed(map(repr, missing))}] are in none of its shards.")
    return arrays


def _read_safetensors(path):
    from safetensors import safe_open

    _check_safetensors_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # Many kinds, for dtypes and shapes that numpy does not have.
        raise FormatError(f"{path} is not a valid safetensors file: {shortened(error)}") from error


def _check_safetensors_header(path):
    """Refuses a key that stands twice, which the library lets pass in silence."""
    start, size = read_start(path, 8), path.stat().st_size
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
    if length is None or length > size - 8:
        raise FormatError(f"{path} is not a safetensors file, or is cut off ({size} bytes).")
    check_description(path, length, "safetensors header")
    parse_json(path, read_start(path, 8 + length)[8:], "safetensors header")


_READERS = {
    ".safetensors": _read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
}


def _to_array(name, value, source):
    # The class is asked, not the object, whose attributes may come from a file.
    try:
        if hasattr(type(value), "detach"):  # A torch tensor, whose bfloat16 numpy does not take.
            value = value.detach().cpu()
            if str(value.dtype) == "torch.bfloat16":
                return value.float().numpy().astype(ml_dtypes.bfloat16)
        array = np.asarray(value) if hasattr(type(value), "__array__") else None
    except Exception as error:  # Many kinds, for what is sparse, quantized or has no values.
        raise FormatError(
            f"{source}: {shortened(repr(name))} is no plain array: {shortened(error)}"
        ) from error
    if array is None or array.dtype == object or array.dtype.kind in "US":
        kind = type(value).__name__
        raise FormatError(f"{source}: {shortened(repr(name))} is a {kind}, not an array.")
    return array
