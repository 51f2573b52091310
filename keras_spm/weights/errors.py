"""Errors of weight files, and text for their messages."""

from collections.abc import Iterable

_MAX_TEXT = 300
_MAX_NAMES = 8


class WeightsError(ValueError):
    """Weights were refused; the model is unchanged."""


class FormatError(WeightsError):
    """A file cannot be read as named float arrays, or as a configuration of a model."""


class MismatchError(WeightsError):
    """Names, shapes or values of the tensors do not fit the model."""


class DownloadError(WeightsError):
    """A file could not be downloaded from the hub, or is not the declared file."""


def shorten(text: object) -> str:
    """Returns text from a file for a message: limited in length, control characters escaped."""
    text = str(text)
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}… ({len(text)} characters)"
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )


def join_names(names: Iterable) -> str:
    """Returns names for a message: the first few, and the number of the others."""
    names = [str(name) for name in names]
    rest = len(names) - _MAX_NAMES
    shown = ", ".join(map(shorten, names[:_MAX_NAMES]))
    return f"{shown} and {rest} more" if rest > 0 else shown
