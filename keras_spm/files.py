"""Files: written atomically, flushed to the disk, and read with clear errors."""

import contextlib
import errno
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from keras_spm.types import PathLike

TEMPORARY_PREFIX = ".unfinished-"
# Errors of file systems that cannot flush.
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def atomic_write(path: PathLike, durable: bool = False) -> Iterator[pathlib.Path]:
    """Context manager for a temporary path that replaces `path` at the end.

    If an exception is raised, `path` is unchanged. An `OSError` always names a path.

    Args:
        path: of the file.
        durable: whether the file survives a loss of power right afterwards.
    """
    path = pathlib.Path(path)
    # Of this call: several threads or processes may write the same file.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        if durable:
            flush(temporary)
        os.replace(temporary, path)
        if durable:
            flush(path.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: PathLike) -> None:
    """Flushes the contents of a file, or the entries of a folder, to the disk.

    Nothing is done where the system or the file system does not support it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Systems refuse to open or to flush folders with many different errors.
        if error.errno not in _NOT_SUPPORTED and not os.path.isdir(path):
            raise


def read_json_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON file with an object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, or not an object.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} must have a JSON object. Received: {type(contents).__name__}")
    return contents


def check_writable(path: pathlib.Path) -> None:
    """Refuses a file that could not be written after the work."""
    if path.is_dir() or not path.parent.is_dir():
        folder = path if path.is_dir() else path.parent
        found = "is a folder" if path.is_dir() else "is not a folder"
        raise ValueError(f"{path} must be a file in an existing folder, but {folder} {found}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: permission denied")
