"""Safetensors files with invalid headers."""

import json
import math
import struct

import ml_dtypes
import numpy as np

from tests.campaigns.hostile.case import WEIGHTS, Case, state

KIND = "safetensors header"
_TENSOR = "norm1.weight"  # The one that is made wrong: eight values.
_NEIGHBOR = "norm1.bias"
_LARGEST = 2**64 - 1


def safetensors(header, data=b""):
    """Returns a file's bytes; the header is text, or what is to be written as JSON."""
    text = header if isinstance(header, (bytes, str)) else json.dumps(header)
    text = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def parts(contents):
    """Returns (header, data) of a valid file."""
    (length,) = struct.unpack("<Q", contents[:8])
    return json.loads(contents[8 : 8 + length]), contents[8 + length :]


def _bytes(contents):
    """A writer of these bytes."""
    return lambda folder, valid: (folder / WEIGHTS).write_bytes(contents)


def _text(text):
    """A writer of a file whose header is this text."""
    return _bytes(safetensors(text, bytes(16)))


def _length(length):
    """A writer of a valid file whose header's length is another: a function of the right one."""

    def write(folder, valid):
        contents = valid.read(WEIGHTS)
        size = len(contents)
        (right,) = struct.unpack("<Q", contents[:8])
        wrong = struct.pack("<Q", length(right, size))
        (folder / WEIGHTS).write_bytes(wrong + contents[8:])

    return write


def _edited(edit):
    """A writer of a valid file after `edit(header)`, which may return another header."""

    def write(folder, valid):
        header, data = parts(valid.read(WEIGHTS))
        edited = edit(header)
        contents = safetensors(header if edited is None else edited, data)
        (folder / WEIGHTS).write_bytes(contents)

    return write


def _entry(**changes):
    """A writer of a valid file with these changes to one tensor's entry; None takes away."""

    def edit(header):
        entry = {**header[_TENSOR], **changes}
        header[_TENSOR] = {key: value for key, value in entry.items() if value is not None}

    return _edited(edit)


def _raw_entry(key, text):
    """A writer of a valid file, with text that json would not write for a value of an entry."""

    def edit(header):
        header[_TENSOR][key] = "PLACE"
        return json.dumps(header).replace('"PLACE"', text)

    return _edited(edit)


def _offsets(change):
    """A writer of a valid file with other offsets of one tensor, a function of the right."""

    def edit(header):
        header[_TENSOR]["data_offsets"] = change(*header[_TENSOR]["data_offsets"])

    return _edited(edit)


def _beside(text):
    """A writer of a valid file with this text before the first entry."""
    return _edited(lambda header: "{" + text + "," + json.dumps(header)[1:])


def _renamed(name):
    """A writer of a valid file that calls one tensor otherwise."""
    return _edited(lambda header: header.update({name: header.pop(_TENSOR)}))


def _all_renamed(rename):
    """A writer of a valid file that calls all tensors otherwise."""
    return _edited(lambda header: {rename(name): entry for name, entry in header.items()})


def _retyped(dtype, values=None, item_size=None, shape=None):
    """A writer of a valid file whose wrong tensor has another dtype, with the right offsets."""

    def write(folder, valid):
        header, data = {}, b""
        for name, array in state().items():
            tag = {"float32": "F32", "int64": "I64"}[array.dtype.name]
            content = array.tobytes()
            if name == _TENSOR:
                tag = dtype
                content = bytes(math.ceil(array.size * item_size)) if values is None else values
            sizes = list(array.shape) if shape is None or name != _TENSOR else shape
            offsets = [len(data), len(data) + len(content)]
            header[name] = {"dtype": tag, "shape": sizes, "data_offsets": offsets}
            data += content
        (folder / WEIGHTS).write_bytes(safetensors(header, data))

    return write


def _hole(folder, valid):
    """Eight bytes that no tensor names, in the midst of the data."""
    header, data = parts(valid.read(WEIGHTS))
    start = header[_TENSOR]["data_offsets"][0]
    for entry in header.values():
        entry["data_offsets"] = [each + 8 * (each > start) for each in entry["data_offsets"]]
    contents = safetensors(header, data[:start] + bytes(8) + data[start:])
    (folder / WEIGHTS).write_bytes(contents)


def _swap(header):
    """Two tensors of one size change places: a valid file of other values."""
    first, second = header[_TENSOR], header[_NEIGHBOR]
    first["data_offsets"], second["data_offsets"] = second["data_offsets"], first["data_offsets"]


def _same_offsets(header):
    header[_TENSOR]["data_offsets"] = header[_NEIGHBOR]["data_offsets"]


_VALUES = np.linspace(-2, 2, 8)
_ENTRY = '"extra": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'

_WRITERS = {
    "no bytes": _bytes(b""),
    "length one short": _length(lambda right, size: right - 1),
    "length one over": _length(lambda right, size: right + 1),
    "length that takes the data in": _length(lambda right, size: size - 8),
    "length maximal": _length(lambda right, size: _LARGEST),
    "a second object behind": _edited(lambda header: json.dumps(header) + "{}"),
    "100,000 brackets": _text("[" * 100_000),
    "NaN in a shape": _raw_entry("shape", "[NaN]"),
    "no tensors": _bytes(safetensors("{}")),
    "a tensor twice": _beside(f"{_ENTRY}, {_ENTRY}"),
    "a tensor twice, once escaped": _beside(_ENTRY + ", " + _ENTRY.replace("extra", "extr\\u0061")),
    "metadata twice": _beside('"__metadata__": {}, "__metadata__": {"a": "b"}'),
    "a dtype twice": _raw_entry("dtype", '"F32", "dtype": "I32"'),
    "a shape twice": _raw_entry("shape", '[8], "shape": [8]'),
    "offsets twice": _raw_entry("data_offsets", '[0, 32], "data_offsets": [32, 64]'),
    "integers": _entry(dtype="I32"),
    "float64": _retyped("F64", _VALUES.tobytes()),
    "float16": _retyped("F16", _VALUES.astype("float16").tobytes()),
    "bfloat16": _retyped("BF16", _VALUES.astype(ml_dtypes.bfloat16).tobytes()),
    "booleans": _retyped("BOOL", item_size=1),
    "complex numbers": _retyped("C64", item_size=8),
    "NaN as a value": _retyped("F32", np.full(8, np.nan, "float32").tobytes()),
    "infinity as a value": _retyped("F32", np.full(8, np.inf, "float32").tobytes()),
    "float64 beyond float32": _retyped("F64", np.full(8, 1e300).tobytes()),
    "a negative size": _entry(shape=[-8]),
    "a size that is a float": _entry(shape=[8.0]),
    "sizes whose product wraps around to 8": _entry(shape=[2**61 + 1, 8]),
    "another shape of as many values": _entry(shape=[2, 4]),
    "offsets of the neighbor": _edited(_same_offsets),
    "offsets that overlap": _offsets(lambda start, end: [start - 4, end - 4]),
    "a hole": _hole,
    "data that nothing names": _edited(lambda header: header.pop(_TENSOR) and None),
    "reversed offsets": _offsets(lambda start, end: [end, start]),
    "offsets beyond the file": _offsets(lambda start, end: [start + 2**30, end + 2**30]),
    "offsets of too many bytes": _offsets(lambda start, end: [start, end + 4]),
    "offsets of too few bytes": _offsets(lambda start, end: [start, end - 4]),
    "two tensors swapped": _edited(_swap),
    "a name that is a path": _renamed("../../../../etc/passwd"),
    "a name with control characters": _renamed("\x1b]0;title\x07\x1b[2J\r\n"),
    "a name of half a surrogate pair": _edited(
        lambda header: json.dumps(header).replace(_TENSOR, "\\ud800")
    ),
    "a name with a letter of another alphabet": _renamed("nоrm1.weight"),
    "a name of Python's own": _renamed("__class__"),
    "a wrapper's name": _renamed("state_dict"),
    "a wrapper before every name": _all_renamed(lambda name: f"module.{name}"),
    "numbers for names": _edited(
        lambda header: {str(index): entry for index, entry in enumerate(header.values())}
    ),
}


CASES = tuple(Case(KIND, name, write) for name, write in _WRITERS.items())
