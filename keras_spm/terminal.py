"""Text for the terminal: any name can be printed, and none can control the terminal.

Imports nothing of this package.
"""

import contextlib
import sys
import unicodedata
from collections.abc import Iterator

# Control and format characters, surrogates, and separators of lines and paragraphs. Format
# characters can reverse the text that follows; the joiners of Persian and emoji cannot.
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"


def printable(text: object, keep: str = "") -> str:
    r"""Returns text with its control characters escaped, such as `\x1b` and `\n`.

    Args:
        text: any object; its `str` is used.
        keep: characters that are not escaped.
    """
    return "".join(
        character if character in _JOINERS + keep else _escaped(character)
        for character in str(text)
    )


def _escaped(character):
    if unicodedata.category(character) not in _ESCAPED:
        return character
    return character.encode("unicode_escape").decode()


@contextlib.contextmanager
def tolerant_output() -> Iterator[None]:
    """Lets standard output and error escape what their encoding lacks, where they can."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)
