"""Safe reading of untrusted files: regular files only, with a limit on headers and JSON."""

import collections
import json
import pathlib
import stat
from typing import Any

from keras_spm.weights.errors import FormatError, join_names, shorten

# Bytes of a header, pickle or configuration. Models of this package need 0.1 MB; parsing
# more takes seconds.
_MAX_HEADER = 4 << 20


def check_is_file(path: pathlib.Path, kind: str) -> None:
    """Refuses pipes, devices and folders, which may never end or change while they are read."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError for a path with NUL.
        raise FileNotFoundError(f"There is no {kind} {path}: {error}") from error
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is not a regular file.")


def read_start(path: pathlib.Path, count: int) -> bytes:
    """Returns the first `count` bytes of a file, or all of a shorter one."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error


def check_header_size(path: pathlib.Path, size: int, kind: str) -> None:
    """Limits the size in bytes of a header, pickle or configuration."""
    if size > _MAX_HEADER:
        raise FormatError(f"{path}: the {kind} is longer than the limit of {_MAX_HEADER} bytes.")


def read_json(path: pathlib.Path, kind: str) -> Any:
    """Reads a JSON file, see `parse_json`; raises FileNotFoundError or FormatError."""
    check_is_file(path, kind)
    text = read_start(path, _MAX_HEADER + 1)
    check_header_size(path, len(text), kind)
    return parse_json(path, text, kind)


def parse_json(path: pathlib.Path, text: str | bytes, kind: str) -> Any:
    """Parses the text of a JSON file strictly; path and kind are for messages.

    Raises:
        FormatError: if it is not JSON, has a duplicate key, or has NaN or infinity.
    """

    def to_dict(pairs):
        contents = dict(pairs)
        if len(contents) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            duplicates = sorted(name for name, count in counts.items() if count > 1)
            raise FormatError(
                f"{path}: the {kind} has duplicate keys [{join_names(map(repr, duplicates))}]."
            )
        return contents

    def refuse_constant(constant):
        raise ValueError(f"{constant} is not allowed")

    try:
        return json.loads(text, object_pairs_hook=to_dict, parse_constant=refuse_constant)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError also for very long numbers.
        raise FormatError(f"{path}: the {kind} is not JSON: {shorten(error)}") from error
