"""From files or a mapping to {name: numpy array}, without running anything in them."""

import collections
import collections.abc
import json
import os
import pathlib
import struct

import ml_dtypes
import numpy as np

from keras_spm.weights.errors import FormatError

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


def read_arrays(source):
    """Reads named arrays.

    Seen through are the wrappers `{"model": …}` and `{"state_dict": …}` (the rest of such
    a checkpoint is not looked at) and a `module.` before every name.

    Args:
        source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, of an index
            (`….index.json`) of several such files, or of a folder with a `model.safetensors`
            or `pytorch_model.bin`, whole or indexed; or a mapping of names to arrays
            (numpy, or anything numpy takes, torch tensors included).

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
    for wrapper in _WRAPPERS:
        if isinstance(contents.get(wrapper), collections.abc.Mapping):
            contents, description = contents[wrapper], f"{description}[{wrapper!r}]"
    if contents and all(str(name).startswith(_WRAPPER_PREFIX) for name in contents):
        contents = {name.removeprefix(_WRAPPER_PREFIX): contents[name] for name in contents}
    return {name: _to_array(name, value) for name, value in contents.items()}, description


def write_safetensors(path, arrays):
    """Writes {name: numpy array} to a `.safetensors` file, whole or not at all.

    The metadata say that the tensors are PyTorch's, as transformers asks.

    Raises:
        FormatError: for a path that ends in anything else.
        OSError: where it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise FormatError(f"`path` must end in .safetensors. Received: {path}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        save_file(arrays, unfinished, metadata={"format": "pt"})
        unfinished.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _in_folder(path):
    if not path.is_dir():
        return path
    found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(f"The folder {path} holds none of {', '.join(WEIGHT_FILES)}.")
    return found[0]


def _read_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"There is no weight file {path}.")
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
    index = parse_json(path, path.read_bytes(), "index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) and shard == pathlib.PurePath(shard).name
        for shard in weight_map.values()
    ):
        raise FormatError(f"{path}: `weight_map` must map tensors to files in the same folder.")
    return weight_map


def _read_shards(path):
    """Reads the files that an index names: each tensor where the index says, no other."""
    weight_map = _weight_map(path)
    arrays = {}
    for shard in sorted(set(weight_map.values())):
        contents = _read_file(path.with_name(shard))
        if twice := sorted(contents.keys() & arrays.keys()):
            raise FormatError(f"{path}: {twice} stand in {shard} and in another shard.")
        if unlisted := sorted(name for name in contents if weight_map.get(name) != shard):
            raise FormatError(
                f"{path.with_name(shard)} holds {unlisted}, which {path.name} does not list there."
            )
        arrays |= contents
    if missing := sorted(weight_map.keys() - arrays.keys()):
        raise FormatError(f"{path}: {missing} are in none of its shards.")
    return arrays


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors import safe_open

    _check_safetensors_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise FormatError(f"{path} is not a valid safetensors file: {error}") from error


def _check_safetensors_header(path):
    """Refuses a key that stands twice, which the library lets pass in silence."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > size - 8:
            raise FormatError(f"{path} is not a safetensors file, or is cut off ({size} bytes).")
        parse_json(path, file.read(length), "safetensors header")


def parse_json(path, text, what):
    """Parses JSON, and refuses a key that stands twice in one object.

    Args:
        path: of the file, for messages.
        text: str or bytes.
        what: what the text is, for messages.

    Raises:
        FormatError: for anything else.
    """

    def without_duplicates(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise FormatError(f"{path}: the {what} names {twice} twice.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=without_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: the {what} is not JSON: {error}") from error


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise FormatError(
            f"{path}: reading {path.suffix} files needs PyTorch (`pip install torch`); "
            ".safetensors files need nothing more."
        ) from error
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it does not trust.
        raise FormatError(f"{path} is not a PyTorch file of plain tensors: {error}") from error
    if not isinstance(contents, collections.abc.Mapping):
        raise FormatError(f"{path} holds a {type(contents).__name__}, not named tensors.")
    return contents


_READERS = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
}


def _to_array(name, value):
    if hasattr(value, "detach"):  # A torch tensor, whose bfloat16 numpy does not take.
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(ml_dtypes.bfloat16)
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "US":
        raise FormatError(f"{name!r} is a {type(value).__name__}, not an array.")
    return array
