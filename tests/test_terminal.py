"""Text for the terminal."""

import contextlib
import io
import sys

import pytest

from keras_spm.terminal import printable, tolerant_output

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, héron 鷺 → 🐦\u200d⬛", "plain text, héron 鷺 → 🐦\u200d⬛"),
        ("\x1b[2Ja\nb\r\t\x00\x9b1m", r"\x1b[2Ja\nb\r\t\x00\x9b1m"),
        ("gpj.\u202etxt\u2066\u2028", r"gpj.\u202etxt\u2066\u2028"),
        ("\udcff.png", r"\udcff.png"),
        (ValueError("a\nb"), r"a\nb"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected


def test_kept_characters():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("cp1252", b"h\xe9ron \\u2192 \\udcff"), ("ascii", b"h\\xe9ron \\u2192 \\udcff")],
)
def test_output_escapes_what_its_encoding_lacks(encoding, expected):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    with contextlib.redirect_stdout(stream), tolerant_output():
        print("héron → \udcff", end="")
        sys.stdout.flush()
    assert stream.buffer.getvalue() == expected
    assert stream.errors == "strict"


def test_streams_that_cannot_be_configured():
    with contextlib.redirect_stdout(io.StringIO()) as stream, tolerant_output():
        print("→", end="")
    assert stream.getvalue() == "→"
