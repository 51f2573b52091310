"""From a file or mapping to {name: numpy array}, without running anything in it."""

import collections
import collections.abc
import json
import os
import pathlib
import struct

import numpy as np

from keras_spm.weights.errors import FormatError


def read_arrays(source):
    """Reads named arrays.

    Args:
        source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, or a mapping of
            names to arrays (numpy, or anything numpy takes, torch tensors included).

    Returns:
        (arrays, description): {name: array} in the source's own dtypes, and what to call
        the source in messages.

    Raises:
        FileNotFoundError: for a path where there is no file.
        FormatError: for anything that does not hold named arrays.
    """
    if isinstance(source, collections.abc.Mapping):
        return {name: _to_array(name, value) for name, value in source.items()}, "the mapping"
    if not isinstance(source, (str, os.PathLike)):
        raise FormatError(
            f"`source` must be a path or a mapping of arrays. Received: {type(source).__name__}"
        )
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weight file {path}.")
    if path.suffix not in _READERS:
        raise FormatError(
            f"{path}: weights are read from {', '.join(_READERS)}, not from {path.suffix!r}."
        )
    return _READERS[path.suffix](path), str(path)


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

    def without_duplicates(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise FormatError(f"{path}: the header names {twice} twice.")
        return dict(pairs)

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > size - 8:
            raise FormatError(f"{path} is not a safetensors file, or is cut off ({size} bytes).")
        try:
            json.loads(file.read(length), object_pairs_hook=without_duplicates)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise FormatError(f"{path}: the safetensors header is not JSON: {error}") from error


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
    return {name: _to_array(name, value) for name, value in contents.items()}


_READERS = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
}


def _to_array(name, value):
    if hasattr(value, "detach"):  # A torch tensor; numpy knows no bfloat16 of torch's.
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "US":
        raise FormatError(f"{name!r} is a {type(value).__name__}, not an array.")
    return array
