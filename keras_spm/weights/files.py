"""Reads files that may be anything: of regular files, no more than is sensible."""

import collections
import json
import stat

from keras_spm.weights.errors import FormatError
from keras_spm.weights.messages import listed
from keras_spm.weights.messages import shortened

# Bytes of what describes tensors, as opposed to their values, and of configurations. The
# models here need 0.1 MB; more takes seconds to parse.
_LARGEST_DESCRIPTION = 4 << 20


def check_is_file(path, what):
    """Refuses what reading may never end of, or change: pipes, devices, folders.

    Raises:
        FileNotFoundError: where there is nothing.
        FormatError: for anything but a file.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # No path may hold NUL.
        raise FileNotFoundError(f"There is no {what} {path}: {error}") from error
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is not a regular file.")


def read_start(path, count):
    """Returns the first `count` bytes, or as many as there are.

    Raises:
        FormatError: where the system does not let them be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error


def check_description(path, length, what):
    """Refuses what describes a file's contents by more bytes than any model needs.

    Raises:
        FormatError: names it by `what`.
    """
    if length > _LARGEST_DESCRIPTION:
        raise FormatError(
            f"{path}: the {what} is longer than any model needs, {_LARGEST_DESCRIPTION} bytes."
        )


def read_json(path, what):
    """Reads a JSON file.

    Args:
        path: of the file.
        what: what the file is, for messages.

    Raises:
        FileNotFoundError: where there is none.
        FormatError: for anything else than JSON of a sensible length, with each key once.
    """
    check_is_file(path, what)
    text = read_start(path, _LARGEST_DESCRIPTION + 1)
    check_description(path, len(text), what)
    return parse_json(path, text, what)


def parse_json(path, text, what):
    """Parses JSON.

    Args:
        path: of the file, for messages.
        text: str or bytes.
        what: what the text is, for messages.

    Raises:
        FormatError: for anything else, a key that stands twice in one object, and NaN.
    """

    def without_duplicates(pairs):
        contents = dict(pairs)
        if len(contents) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            twice = sorted(name for name, count in counts.items() if count > 1)
            raise FormatError(f"{path}: the {what} names [{listed(map(repr, twice))}] twice.")
        return contents

    def refused(constant):
        raise ValueError(f"it holds {constant}")

    try:
        return json.loads(text, object_pairs_hook=without_duplicates, parse_constant=refused)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:  # Not JSON, or too long a number in it.
        raise FormatError(f"{path}: the {what} is not JSON: {shortened(error)}") from error
