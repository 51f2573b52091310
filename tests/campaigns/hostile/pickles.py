"""Pickles that would run code, and containers that are not what their name says.

Every payload would write the file `MARKER` beside the case's folder.
"""

import builtins
import collections
import functools
import importlib
import io
import operator
import os
import pathlib
import pickle
import runpy
import shutil
import subprocess
import tarfile
import zipfile

import numpy as np
import torch

from tests.campaigns.hostile.case import WEIGHTS, Case, tensors

MARKER = "marker"
_TENSOR = "norm1.weight"
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class Call:
    """Pickles as the call of a function, with what `__reduce__` may give beside."""

    def __init__(self, function, *arguments, rest=()):
        self.reduced = (function, arguments, *rest)

    def __reduce__(self):
        return self.reduced


# By the function that a pickle would call: code that writes the marker. Some of it runs a
# script that does.
_PAYLOADS = {
    "os.system": lambda marker, script: Call(os.system, f"touch {marker}"),
    "os.mkdir": lambda marker, script: Call(os.mkdir, marker),
    "builtins.exec": lambda marker, script: Call(builtins.exec, script.read_text()),
    "builtins.eval": lambda marker, script: Call(builtins.eval, script.read_text()),
    "builtins.open": lambda marker, script: Call(builtins.open, marker, "w"),
    "builtins.getattr": lambda marker, script: Call(
        operator.call, Call(builtins.getattr, Call(pathlib.Path, marker), "touch")
    ),
    "builtins.__import__": lambda marker, script: Call(builtins.__import__, script.stem),
    "importlib.import_module": lambda marker, script: Call(importlib.import_module, script.stem),
    "runpy.run_path": lambda marker, script: Call(runpy.run_path, str(script)),
    "subprocess.Popen": lambda marker, script: Call(subprocess.Popen, ["touch", marker]),
    "shutil.copy": lambda marker, script: Call(shutil.copy, str(script), marker),
    "functools.partial": lambda marker, script: Call(
        operator.call, Call(functools.partial, os.mkdir, marker)
    ),
    "operator.methodcaller": lambda marker, script: Call(
        operator.call, Call(operator.methodcaller, "touch"), Call(pathlib.Path, marker)
    ),
    "pickle.loads": lambda marker, script: Call(pickle.loads, _of_mkdir(marker)),
    "torch.storage._load_from_bytes": lambda marker, script: Call(
        torch.storage._load_from_bytes, archive({"data.pkl": _of_mkdir(marker)})
    ),
    "the state of an object": lambda marker, script: Call(
        collections.OrderedDict, rest=({"__call__": Call(os.mkdir, marker)},)
    ),
    "the items of a dict": lambda marker, script: Call(
        collections.OrderedDict, rest=(None, None, iter([("a", Call(os.mkdir, marker))]))
    ),
    "__setstate__ of a class": lambda marker, script: Call(
        torch.nn.Linear, 1, 1, rest=({"_modules": {"a": Call(os.mkdir, marker)}},)
    ),
}


def _of_mkdir(marker):
    return pickle.dumps(Call(os.mkdir, marker), protocol=2)


def pickled(payload, folder):
    """A state dict in which a payload stands for one tensor; its script is in the folder."""
    marker = str(folder.parent / MARKER)
    script = folder / "payload.py"
    script.write_text(f"open({marker!r}, 'w')")
    return pickle.dumps({_TENSOR: _PAYLOADS[payload](marker, script)}, protocol=2)


def archive(entries, compression=zipfile.ZIP_STORED):
    """Returns the bytes of a zip file as PyTorch writes it, with these entries."""
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w", compression) as file:
        for name, entry in {"version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name}", entry)
    return contents.getvalue()


# Containers, as functions of a pickle


def _in_legacy(described):
    """The format before zip files: magic, version, system, the pickle, names of storages."""
    system = {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}
    magic = 0x1950A86A20F9469CFC6C
    before = b"".join(pickle.dumps(each, protocol=2) for each in (magic, 1001, system))
    return before + described + pickle.dumps([], protocol=2)


def _in_legacy_system(described):
    magic = 0x1950A86A20F9469CFC6C
    return b"".join(pickle.dumps(each, protocol=2) for each in (magic, 1001)) + described


def _in_tar(described):
    """PyTorch's oldest format."""
    contents = io.BytesIO()
    with tarfile.open(fileobj=contents, mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(described)
            file.addfile(info, io.BytesIO(described))
    return contents.getvalue()


def _in_torchscript(described):
    code = b"op_version_set = 1\nclass Module(Module):\n  __parameters__ = []\n"
    entries = {"constants.pkl": described, "code/__torch__.py": code, "data.pkl": described}
    return archive(entries)


def _in_numpy(described):
    """An array of objects: numpy's header, and a pickle behind."""
    contents = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    np.lib.format.write_array_header_1_0(contents, header)
    return contents.getvalue() + described


def _in_npz(described):
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w") as file:
        file.writestr("arr_0.npy", _in_numpy(described))
    return contents.getvalue()


def _in_keras(described):
    """A Keras archive with a lambda, whose code is a pickle."""
    contents = io.BytesIO()
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "exec"}}
    with zipfile.ZipFile(contents, "w") as file:
        file.writestr("config.json", str(layer))
        file.writestr("metadata.json", described)
    return contents.getvalue()


_CONTAINERS = {
    "a raw pickle": bytes,
    "a zip file": lambda described: archive({"data.pkl": described}),
    "the legacy format": _in_legacy,
    "the legacy format's system": _in_legacy_system,
    "a tar file": _in_tar,
    "TorchScript": _in_torchscript,
    "npz": _in_npz,
    "a Keras archive": _in_keras,
    "a zip file in a zip file": lambda described: archive(
        {"data.pkl": archive({"data.pkl": described})}
    ),
    "a zip file behind another": lambda described: (
        archive({"data.pkl": b"}."}) + archive({"data.pkl": described})
    ),
    "a zip file whose entries go up": lambda described: archive(
        {"../../../marker": described, "data.pkl": described}
    ),
}


def _payload(payload, container, path, folder, valid):
    (folder / path).write_bytes(_CONTAINERS[container](pickled(payload, folder)))


def _payload_cases():
    pairs = [(payload, "a zip file", ".pth") for payload in _PAYLOADS]
    pairs += [("os.system", container, ".pth") for container in _CONTAINERS]
    for container in ("a raw pickle", "a zip file", "the legacy format"):
        pairs += [("builtins.exec", container, suffix) for suffix in _SUFFIXES]
    for payload, container, suffix in dict.fromkeys(pairs):
        path = f"weights{suffix}"
        write = functools.partial(_payload, payload, container, path)
        yield Case("pickle of code", f"{payload} in {container}, {path}", write, path)


# Opcodes that no pickler writes

_GLOBAL = b"cposix\nsystem\n"
_COMMAND = b"X\x0c\x00\x00\x00touch marker"
_OPCODES = {
    "INST": b"(" + _COMMAND + b"iposix\nsystem\n.",
    "OBJ": b"(" + _GLOBAL + _COMMAND + b"o.",
    "NEWOBJ": _GLOBAL + _COMMAND + b"\x85\x81.",
    "NEWOBJ_EX": _GLOBAL + _COMMAND + b"\x85}\x92.",
    "STACK_GLOBAL": b"\x8c\x05posix\x8c\x06system\x93" + _COMMAND + b"\x85R.",
    "EXT1": b"\x82\x01.",
    "PERSID": b"Pstorage\n.",
    "BUILD of a class": b"ctorch\nFloatStorage\n}b.",
    "a name with dots": b"ctorch\nserialization.os.system\n" + _COMMAND + b"\x85R.",
    "20,000,000 opcodes": b"N" * 20_000_000 + b".",
    "a state that is a number": b"ccollections\nOrderedDict\n)RK\x01b.",
}


def _opcodes(name, folder, valid):
    described = b"\x80\x02" + _OPCODES[name].removeprefix(b"\x80\x02")
    (folder / "weights.pth").write_bytes(archive({"data.pkl": described}))


def _opcode_cases():
    for name in _OPCODES:
        yield Case("pickle opcodes", name, functools.partial(_opcodes, name), "weights.pth")


# Tensors that are not what they seem


class _Storage:
    """Pickles as a reference to a storage of the archive."""

    def __init__(self, key="0", count=8, kind=torch.FloatStorage, location="cpu"):
        self.reference = ("storage", kind, key, location, count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.reference if isinstance(obj, _Storage) else None


def _tensor(storage=None, offset=0, size=(8,), stride=(1,)):
    function = torch._utils._rebuild_tensor_v2
    hooks = collections.OrderedDict()
    return Call(function, storage or _Storage(), offset, size, stride, False, hooks)


def _described(content):
    described = io.BytesIO()
    _Pickler(described, protocol=2).dump(content)
    return described.getvalue()


def _with(tensor, data=bytes(32), **entries):
    """A writer of an archive of one tensor."""

    def write(folder, valid):
        described = {"data.pkl": _described({_TENSOR: tensor}), "data/0": data}
        (folder / "weights.pth").write_bytes(archive({**described, **entries}))

    return write


_TENSORS = {
    "a storage of 4 TB": _with(_tensor(_Storage(count=10**12))),
    "a storage one value too long": _with(_tensor(_Storage(count=9))),
    "a storage one value too short": _with(_tensor(_Storage(count=7))),
    "a storage whose key is a path": _with(_tensor(_Storage("../../../../etc/passwd"))),
    "a storage whose key is absolute": _with(_tensor(_Storage("/etc/passwd"))),
    "a negative offset": _with(_tensor(offset=-1)),
    "a size beyond the storage": _with(_tensor(size=(10**9,))),
    "a negative stride": _with(_tensor(stride=(-1,))),
    "a size of 10**12 on one value": _with(_tensor(size=(10**12,), stride=(0,))),
    "big-endian": _with(_tensor(), byteorder=b"big"),
}


# State dicts of something else


def _saved(change, source="pvt_v2"):
    """A writer of a valid state dict after `change(state dict)`, which may return another."""

    def write(folder, valid):
        content = tensors(source)
        changed = change(content)
        torch.save(content if changed is None else changed, folder / "weights.pth")

    return write


def _replaced(make):
    """A writer of a valid state dict with another value for one tensor."""
    return _saved(lambda content: content.update({_TENSOR: make(content[_TENSOR])}))


def _every(make):
    return _saved(lambda content: {name: make(tensor) for name, tensor in content.items()})


def _recursive(content):
    content["model"] = content


def _quantized(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _attribute(**attributes):
    """A change to a dict that has these attributes, before its class's methods."""

    def change(content):
        return Call(collections.OrderedDict, rest=(attributes, None, iter(content.items())))

    return change


_STATES = {
    "a list of numbers": _replaced(lambda tensor: tensor.tolist()),
    "a dict": _replaced(lambda tensor: {"a": tensor}),
    "a sparse tensor": _replaced(lambda tensor: tensor.to_sparse()),
    "a quantized tensor": _replaced(_quantized),
    "complex numbers to be conjugated": _replaced(lambda t: t.to(torch.complex64).conj()),
    "booleans": _replaced(lambda tensor: tensor > 0),
    "NaN": _replaced(lambda tensor: tensor * torch.nan),
    "a view of every second value": _replaced(lambda tensor: tensor.repeat_interleave(2)[::2]),
    "a tensor of no values": _replaced(lambda tensor: tensor[:0]),
    "bfloat16": _every(lambda t: t.bfloat16() if t.is_floating_point() else t),
    "float64": _every(lambda t: t.double() if t.is_floating_point() else t),
    "a name that is a number": _saved(lambda content: content.update({7: torch.zeros(1)})),
    "an attribute for a method of the dict": _saved(_attribute(get=1, items=1, keys=1)),
    "an attribute for a method of a wrapper": _saved(
        lambda content: {"model": _attribute(get=1, items=1, keys=1)(content)}
    ),
    "attributes of a tensor": _replaced(
        lambda tensor: _attribute(detach=collections.Counter, __array__=collections.Counter)({})
    ),
    "a wrapper in itself": _saved(_recursive),
    "a wrapper that is a tensor": _saved(lambda content: content.update(model=torch.zeros(1))),
    "wrappers in each other": _saved(lambda content: {"state_dict": {"model": content}}),
    "a whole module": _saved(lambda content: torch.nn.Linear(2, 2)),
}


def _as(name):
    """A writer of valid weights under a name that says another format."""
    source = WEIGHTS if name == "weights.pth" else "weights.pth"
    return lambda folder, valid: (folder / name).write_bytes(valid.read(source))


_NAMES = ("weights.safetensors", "weights.pth", "weights.pkl", "weights.npz", "weights")


def _container_cases():
    for name in _NAMES:
        yield Case("misnamed", f"another format as {name}", _as(name), name)


def _named(kind, writers, model="pvt_v2"):
    return (Case(kind, name, write, "weights.pth", model) for name, write in writers.items())


CASES = (
    *_payload_cases(),
    *_opcode_cases(),
    *_named("torch tensor", _TENSORS),
    *_named("state dict", _STATES),
    *_container_cases(),
)
