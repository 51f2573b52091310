"""Safetensors files with every kind of wrong header."""

import json
import math
import struct

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.campaigns.hostile.case import WEIGHTS
from tests.campaigns.hostile.case import Case
from tests.campaigns.hostile.case import state

KIND = "safetensors header"
_TENSOR = "norm1.weight"  # The one that is made wrong: eight values.
_NEIGHBOUR = "norm1.bias"
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


def _sparse(length):
    """A writer of a header of so many bytes, all NUL, that take no room on the disk."""

    def write(folder, valid):
        with (folder / WEIGHTS).open("wb") as file:
            file.write(struct.pack("<Q", length))
            file.truncate(8 + length)

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


def _instead(entry):
    """A writer of a valid file with something else for one tensor's entry."""
    return _edited(lambda header: header.update({_TENSOR: entry}))


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


def _empty_tensors(count):
    """A writer of a valid file that has so many more tensors, without any data."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return _edited(lambda header: header.update({f"extra{i}": empty for i in range(count)}))


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


def _huge_tensor(name, shape, source="pvt_v2"):
    """A writer of a file whose last tensor is all zeros, which take no room on the disk."""

    def write(folder, valid):
        arrays = {key: array for key, array in state(source).items() if key != name}
        save_file(arrays, folder / WEIGHTS)
        header, data = parts((folder / WEIGHTS).read_bytes())
        offsets = [len(data), len(data) + 4 * math.prod(shape)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        with (folder / WEIGHTS).open("wb") as file:
            file.write(safetensors(header, data))
            file.truncate(file.tell() + 4 * math.prod(shape))

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
    first, second = header[_TENSOR], header[_NEIGHBOUR]
    first["data_offsets"], second["data_offsets"] = second["data_offsets"], first["data_offsets"]


def _same_offsets(header):
    header[_TENSOR]["data_offsets"] = header[_NEIGHBOUR]["data_offsets"]


_VALUES = np.linspace(-2, 2, 8)
_ENTRY = '"extra": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'

_WRITERS = {
    # Its length
    "no bytes": _bytes(b""),
    "seven bytes": _bytes(bytes(7)),
    "length 0": _length(lambda right, size: 0),
    "length 1": _length(lambda right, size: 1),
    "length 1 and nothing": _bytes(struct.pack("<Q", 1)),
    "length one short": _length(lambda right, size: right - 1),
    "length one over": _length(lambda right, size: right + 1),
    "length that takes the data in": _length(lambda right, size: size - 8),
    "length one over the file": _length(lambda right, size: size - 7),
    "length of the largest int64": _length(lambda right, size: 2**63 - 1),
    "length that is negative as int64": _length(lambda right, size: 2**63),
    "length maximal": _length(lambda right, size: _LARGEST),
    "length byte-swapped": _length(
        lambda right, size: int.from_bytes(right.to_bytes(8, "little"), "big")
    ),
    "header of 3 GiB": _sparse(3 << 30),
    "header of 90 MB": _sparse(90_000_000),
    "header of 20 MB of spaces": _bytes(safetensors("{" + " " * 20_000_000 + "}")),
    # Its text
    "not UTF-8": _text(b'{"\xff\xfe": 1}'),
    "UTF-16": _text('{"a": 1}'.encode("utf-16")),
    "UTF-8 with a byte order mark": _edited(lambda header: "\ufeff" + json.dumps(header)),
    "a space first": _edited(lambda header: " " + json.dumps(header)),
    "NUL bytes behind": _edited(lambda header: json.dumps(header) + "\0" * 8),
    "a second object behind": _edited(lambda header: json.dumps(header) + "{}"),
    "a comment": _edited(lambda header: "{/* */" + json.dumps(header)[1:]),
    "a comma at the end": _edited(lambda header: json.dumps(header)[:-1] + ",}"),
    "single quotes": _edited(lambda header: json.dumps(header).replace('"', "'")),
    "unfinished": _edited(lambda header: json.dumps(header)[:-1]),
    "100,000 brackets": _text("[" * 100_000),
    "100,000 objects": _text('{"a":' * 100_000),
    "100,000 brackets in a shape": _raw_entry("shape", "[" * 100_000 + "]" * 100_000),
    "an integer of 5,000 digits": _text("9" * 5_000),
    "an integer of 5,000 digits in a shape": _raw_entry("shape", f"[{'9' * 5_000}]"),
    "an integer of 5,000 digits in offsets": _raw_entry("data_offsets", f"[0, {'9' * 5_000}]"),
    "NaN": _text("NaN"),
    "NaN in a shape": _raw_entry("shape", "[NaN]"),
    "Infinity in a shape": _raw_entry("shape", "[Infinity]"),
    "-Infinity in offsets": _raw_entry("data_offsets", "[-Infinity, 32]"),
    "1e400 in a shape": _raw_entry("shape", "[1e400]"),
    # Another kind of value
    "a list": _text("[]"),
    "a list of pairs": _edited(lambda header: list(header.items())),
    "a string": _text('"norm1.weight"'),
    "null": _text("null"),
    "a number": _text("12"),
    "no tensors": _bytes(safetensors("{}")),
    "metadata alone": _bytes(safetensors('{"__metadata__": {}}')),
    # Twice the same
    "a tensor twice": _beside(f"{_ENTRY}, {_ENTRY}"),
    "a tensor twice, once escaped": _beside(_ENTRY + ", " + _ENTRY.replace("extra", "extr\\u0061")),
    "metadata twice": _beside('"__metadata__": {}, "__metadata__": {"a": "b"}'),
    "a key of the metadata twice": _beside('"__metadata__": {"a": "b", "a": "c"}'),
    "a dtype twice": _raw_entry("dtype", '"F32", "dtype": "I32"'),
    "a shape twice": _raw_entry("shape", '[8], "shape": [8]'),
    "offsets twice": _raw_entry("data_offsets", '[0, 32], "data_offsets": [32, 64]'),
    # An entry
    "an entry that is null": _instead(None),
    "an entry that is a list": _instead(["F32", [8], [0, 32]]),
    "an entry that is a string": _instead("F32"),
    "an entry that is a number": _instead(8),
    "an empty entry": _instead({}),
    "no dtype": _entry(dtype=None),
    "no shape": _entry(shape=None),
    "no offsets": _entry(data_offsets=None),
    "a key more": _entry(code="print(1)"),
    # Its dtype
    "an unknown dtype": _entry(dtype="F33"),
    "a dtype in small letters": _entry(dtype="f32"),
    "an empty dtype": _entry(dtype=""),
    "a dtype that is a number": _entry(dtype=32),
    "a dtype that is a list": _entry(dtype=["F32"]),
    "a dtype of objects": _entry(dtype="O"),
    "integers": _entry(dtype="I32"),
    "float64": _retyped("F64", _VALUES.tobytes()),
    "float16": _retyped("F16", _VALUES.astype("float16").tobytes()),
    "bfloat16": _retyped("BF16", _VALUES.astype(ml_dtypes.bfloat16).tobytes()),
    "booleans": _retyped("BOOL", item_size=1),
    "complex numbers": _retyped("C64", item_size=8),
    "float8_e4m3": _retyped("F8_E4M3", item_size=1),
    "float8_e5m2": _retyped("F8_E5M2", item_size=1),
    "float8_e8m0": _retyped("F8_E8M0", item_size=1),
    "float6_e2m3": _retyped("F6_E2M3", item_size=0.75),
    "float4": _retyped("F4", item_size=0.5),
    "NaN as a value": _retyped("F32", np.full(8, np.nan, "float32").tobytes()),
    "infinity as a value": _retyped("F32", np.full(8, np.inf, "float32").tobytes()),
    "float64 beyond float32": _retyped("F64", np.full(8, 1e300).tobytes()),
    # Its shape
    "a negative size": _entry(shape=[-8]),
    "two negative sizes": _entry(shape=[-2, -4]),
    "a size that is a float": _entry(shape=[8.0]),
    "a size that is a string": _entry(shape=["8"]),
    "a size that is true": _entry(shape=[True, 8]),
    "a shape that is a number": _entry(shape=8),
    "a shape that is a string": _entry(shape="8"),
    "a shape that is an object": _entry(shape={"0": 8}),
    "a shape in a shape": _entry(shape=[[8]]),
    "a size of 2**63": _entry(shape=[2**63]),
    "a size of 2**64": _entry(shape=[2**64]),
    "sizes whose product wraps around to 0": _entry(shape=[2**62, 4]),
    "sizes whose product wraps around to 8": _entry(shape=[2**61 + 1, 8]),
    "sizes whose bytes wrap around": _entry(shape=[2**62 + 8]),
    "a size of 0 beside 2**62": _beside(_ENTRY.replace("[0]", f"[0, {2**62}]")),
    "a size of 0 beside 2**64": _beside(_ENTRY.replace("[0]", f"[0, {2**64}]")),
    "a tensor of no values more": _beside(_ENTRY),
    "no values": _retyped("F32", b"", shape=[0]),
    "a scalar": _retyped("F32", bytes(4), shape=[]),
    "a tensor of 8 GiB that take no room": _huge_tensor(_TENSOR, [1, 2**28, 8]),
    "65 axes": _entry(shape=[8] + [1] * 64),
    "100,000 axes": _entry(shape=[8] + [1] * 100_000),
    "another shape of as many values": _entry(shape=[2, 4]),
    # Its offsets
    "offsets of the neighbor": _edited(_same_offsets),
    "offsets that overlap": _offsets(lambda start, end: [start - 4, end - 4]),
    "a hole": _hole,
    "data that nothing names": _edited(lambda header: header.pop(_TENSOR) and None),
    "reversed offsets": _offsets(lambda start, end: [end, start]),
    "offsets beyond the file": _offsets(lambda start, end: [start + 2**30, end + 2**30]),
    "negative offsets": _offsets(lambda start, end: [-end, -start]),
    "maximal offsets": _offsets(lambda start, end: [_LARGEST - 32, _LARGEST]),
    "offsets of too many bytes": _offsets(lambda start, end: [start, end + 4]),
    "offsets of too few bytes": _offsets(lambda start, end: [start, end - 4]),
    "offsets that are floats": _offsets(lambda start, end: [start + 0.5, end + 0.5]),
    "offsets that are strings": _offsets(lambda start, end: [str(start), str(end)]),
    "one offset": _offsets(lambda start, end: [start]),
    "three offsets": _offsets(lambda start, end: [start, end, end]),
    "two tensors swapped": _edited(_swap),
    # Metadata
    "metadata that are a list": _beside('"__metadata__": []'),
    "metadata that are null": _beside('"__metadata__": null'),
    "metadata of numbers": _beside('"__metadata__": {"a": 1}'),
    "metadata within metadata": _beside('"__metadata__": {"a": {"b": "c"}}'),
    "metadata of 3 MB": _beside(f'"__metadata__": {{"a": "{"b" * 3_000_000}"}}'),
    "metadata of 5 MB": _beside(f'"__metadata__": {{"a": "{"b" * 5_000_000}"}}'),
    # Names
    "an empty name": _renamed(""),
    "a name with NUL": _renamed(f"{_TENSOR}\0"),
    "a name that is a path": _renamed("../../../../etc/passwd"),
    "a name with control characters": _renamed("\x1b]0;title\x07\x1b[2J\r\n"),
    "a name of half a surrogate pair": _edited(
        lambda header: json.dumps(header).replace(_TENSOR, "\\ud800")
    ),
    "a name of 1 MB": _renamed("a" * 1_000_000),
    "a name of 1 MB of dots": _renamed("." * 1_000_000),
    "a name with a letter of another alphabet": _renamed("nоrm1.weight"),
    "a name of Python's own": _renamed("__class__"),
    "a wrapper's name": _renamed("state_dict"),
    "a wrapper before every name": _all_renamed(lambda name: f"module.{name}"),
    "numbers for names": _edited(
        lambda header: {str(index): entry for index, entry in enumerate(header.values())}
    ),
    "20,000 tensors more": _empty_tensors(20_000),
    "a million tensors": _empty_tensors(1_000_000),
}


def _position_cases():
    """Grids of positions, which are resized to the model's."""
    for side in (500, 4_096):
        write = _huge_tensor("pos_embed1", [1, side**2, 8], "pvt")
        yield Case(KIND, f"{side} x {side} positions", write, model="pvt")


CASES = (
    *(Case(KIND, name, write) for name, write in _WRITERS.items()),
    *_position_cases(),
)
