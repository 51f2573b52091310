"""Exported files and folders, written as a whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from typing import Any

from keras_spm.files import TEMPORARY_PREFIX
from keras_spm.types import PathLike

METADATA = "metadata.json"
_SAVED_MODEL = "saved_model.pb"


@contextlib.contextmanager
def atomic_export(path: PathLike) -> Iterator[pathlib.Path]:
    """Context manager for a temporary path with the suffix of `path`, which it replaces.

    A file may have companions, with other suffixes: those are moved first. If an exception is
    raised, nothing is left behind.

    Raises:
        FileExistsError: if `path` is a folder, and not one of a SavedModel.
        FileNotFoundError: if it is in a folder that does not exist.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must be in an existing folder.")
    if path.is_dir() and any(path.iterdir()) and not (path / _SAVED_MODEL).exists():
        raise FileExistsError(f"{path} is a folder with other files. Choose another path.")
    prefix = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-"
    temporary = path.with_name(f"{prefix}{path.name}")
    try:
        yield temporary
        written = list(path.parent.glob(f"{prefix}*"))
        for each in sorted(written, key=lambda each: each == temporary):
            _replace(each, path.with_name(each.name.removeprefix(prefix)))
    finally:
        for each in path.parent.glob(f"{prefix}*"):
            _remove(each)


def _replace(source, target):
    if not target.is_dir():
        os.replace(source, target)
        return
    old = source.with_name(f"{source.name}.old")
    os.replace(target, old)
    os.replace(source, target)
    _remove(old)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_metadata(path: pathlib.Path, metadata: dict[str, Any]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def append_metadata(path: pathlib.Path, metadata: dict[str, Any]) -> None:
    """Appends a zip archive with `metadata.json` to a file, as LiteRT's models have them."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata, indent=2))


def as_strings(metadata: dict[str, Any]) -> dict[str, str]:
    """Returns metadata for formats that hold strings: other values are JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in metadata.items()
        if value is not None
    }
