"""Indexes with invalid names, paths outside their folder, or wrong shards."""

import functools
import json
import os

from safetensors.numpy import save_file

from tests.campaigns.hostile.case import INDEX, WEIGHTS, Case, state

KIND = "index"
_FIRST, _SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_TENSOR = "norm1.weight"


def _shards(folder):
    """Writes two valid shards; returns the map of their index."""
    names = list(state())
    halves = {_FIRST: names[: len(names) // 2], _SECOND: names[len(names) // 2 :]}
    for shard, half in halves.items():
        save_file({name: state()[name] for name in half}, folder / shard)
    return {name: shard for shard, half in halves.items() for name in half}


def _mapped(change):
    """A writer of a valid index after `change(map)`, which may return another."""

    def write(folder, valid):
        weight_map = _shards(folder)
        changed = change(weight_map)
        index = {"metadata": {}, "weight_map": weight_map if changed is None else changed}
        (folder / INDEX).write_text(json.dumps(index))

    return write


def _shard_named(name):
    """A writer of an index in which one tensor is in a file of that name."""
    return _mapped(lambda weight_map: weight_map.update({_TENSOR: name}))


def _every_shard_named(name):
    """A writer of an index in which all tensors are in a file of that name."""
    return _mapped(lambda weight_map: dict.fromkeys(weight_map, name))


def _text(text):
    """A writer of an index of this text beside valid shards."""

    def write(folder, valid):
        _shards(folder)
        (folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def _second_shard(replace):
    """A writer of a valid index; `replace(path, valid)` then puts something for a shard."""

    def write(folder, valid):
        weight_map = _shards(folder)
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        (folder / _SECOND).unlink()
        replace(folder / _SECOND, valid)

    return write


def _outside(name, folder, valid):
    """A whole state dict outside the folder that the index is in, but within the case's."""
    inner = folder / "inner"
    inner.mkdir()
    (folder / WEIGHTS).write_bytes(valid.read(WEIGHTS))
    weight_map = dict.fromkeys(state(), str(folder / WEIGHTS) if name is None else name)
    (inner / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def _beside(name, folder, valid):
    """A whole state dict in a folder beside the index."""
    (folder / "inner").mkdir()
    (folder / "inner" / WEIGHTS).write_bytes(valid.read(WEIGHTS))
    _every_shard_named(name)(folder, valid)


def _two_indexes(folder, valid):
    other = f"other.{INDEX}"
    _every_shard_named(other)(folder, valid)
    (folder / other).write_text((folder / INDEX).read_text().replace(other, INDEX))


def _linked(folder, valid):
    """A shard that is a link, as all files are in the cache of the hub."""
    weight_map = _shards(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "blobs").mkdir()
    (folder / _SECOND).rename(folder / "blobs/content")
    (folder / _SECOND).symlink_to("blobs/content")


_WRITERS = {
    "a valid one": _mapped(lambda weight_map: None),
    "a shard that is a link": _linked,
    "a path of NUL": _shard_named("\0"),
    "a name that ends in NUL": _shard_named(f"{_FIRST}\0.safetensors"),
    "no name": _shard_named(""),
    "this folder": _shard_named("."),
    "the folder above for all": _every_shard_named(".."),
    "a device": _shard_named("/dev/zero"),
    "a name with a backslash": _shard_named("..\\weights.safetensors"),
    "a name that is a number": _shard_named(1),
    "a shard that is not there": _shard_named("model-00003-of-00003.safetensors"),
    "the index itself": _every_shard_named(INDEX),
    "two indexes that name each other": _two_indexes,
    "a map that is a list": _text(json.dumps({"weight_map": [_FIRST, _SECOND]})),
    "an empty map": _text('{"weight_map": {}}'),
    "a key twice": _text(f'{{"weight_map": {{"a": "{_FIRST}", "a": "{_SECOND}"}}}}'),
    "a map twice": _text('{"weight_map": {}, "weight_map": {}}'),
    "a tensor that is missing": _mapped(lambda weight_map: weight_map.update(a=_FIRST)),
    "a tensor that is not listed": _mapped(lambda weight_map: weight_map.pop(_TENSOR) and None),
    "a tensor in the other shard": _mapped(
        lambda weight_map: weight_map.update({name: _FIRST for name in list(weight_map)[-1:]})
    ),
    "a shard that is a pipe": _second_shard(lambda path, valid: os.mkfifo(path)),
    "a shard that is a link to a device": _second_shard(
        lambda path, valid: path.symlink_to("/dev/zero")
    ),
    "a shard that holds all": _second_shard(
        lambda path, valid: path.write_bytes(valid.read(WEIGHTS))
    ),
}


def _cases():
    for name, write in _WRITERS.items():
        yield Case(KIND, name, write, ".")
    for title, name in {
        "a path that goes up": f"../{WEIGHTS}",
        "a path that goes down and up": f"x/../../{WEIGHTS}",
        "an absolute path": None,
    }.items():
        yield Case(KIND, title, functools.partial(_outside, name), "inner")
    for name in (f"inner/{WEIGHTS}", f"./inner/{WEIGHTS}", f"inner//{WEIGHTS}"):
        yield Case(KIND, f"a path that goes down: {name}", functools.partial(_beside, name), ".")


CASES = tuple(_cases())
