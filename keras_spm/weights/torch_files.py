"""Reads files of `torch.save` without running code from them."""

import pathlib
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

from keras_spm.weights.errors import FormatError, shorten
from keras_spm.weights.files import check_header_size, read_start

_ZIP_START = b"PK\3\4"


def read_torch(path: pathlib.Path) -> dict:
    """Reads a dict that `torch.save` wrote; raises FormatError for any other file."""
    try:
        import torch
    except ImportError as error:
        raise FormatError(
            f"{path}: reading {path.suffix} files needs PyTorch (`pip install torch`); "
            ".safetensors files do not."
        ) from error
    try:
        _check_archive(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FormatError:
        raise
    except Exception as error:  # torch raises many types of errors for malformed files.
        raise FormatError(
            f"{path} is not a PyTorch file of plain tensors: {shorten(error)}"
        ) from error
    if not isinstance(contents, dict):
        raise FormatError(f"{path} has a {type(contents).__name__}, expected named tensors.")
    return plain_dict(contents)


def _check_archive(path):
    """Refuses archives that unpack to more than their size, or to the disk."""
    if read_start(path, len(_ZIP_START)) != _ZIP_START:
        _check_is_not_tar(path)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = path.stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise FormatError(f"{path} is compressed, unlike files of `torch.save`.")
    if sum(entry.file_size for entry in entries) > size:
        raise FormatError(f"{path} would unpack to more than its {size} bytes.")
    for entry in entries:
        if entry.filename.endswith(".pkl"):
            check_header_size(path, entry.file_size, "pickle")


def _check_is_not_tar(path):
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return
    raise FormatError(f"{path} is a tar archive, not a file of `torch.save`.")


def plain_dict(mapping: Mapping) -> dict:
    """Returns a plain dict of the same items."""
    # A pickle can give a dict attributes that shadow its methods.
    return dict(dict.items(mapping) if isinstance(mapping, dict) else mapping)


def check_views(values: Iterable[Any], source: str) -> None:
    """Refuses tensors of more than twice their storages: a view of one value can have any size."""
    tensors = [value for value in values if hasattr(type(value), "untyped_storage")]
    storages = [tensor.untyped_storage() for tensor in tensors]
    stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    size = sum(tensor.nbytes for tensor in tensors)
    if size > 2 * stored:
        raise FormatError(f"{source} has tensors of {size} bytes, but stores only {stored}.")
