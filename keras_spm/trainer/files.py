"""Files that are whole, or not there, whenever a process ends."""

import contextlib
import os
import pathlib

_UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def written_beside(path):
    """Gives a path to write to; what was written there then takes `path`'s place in one step.

    Where the writing fails, what was at `path` stays.

    Args:
        path: of the file.
    """
    path = pathlib.Path(path)
    beside = path.with_name(f"{_UNFINISHED}{path.name}")
    try:
        yield beside
        flush(beside)
        os.replace(beside, path)
        flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def remove_unfinished(folder):
    """Removes what processes that were killed while they wrote have left in a folder."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        path.unlink()


def flush(path):
    """Waits until a file's contents, or a folder's names, are on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
