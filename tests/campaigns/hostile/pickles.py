"""Pickles that would run code, in every container that PyTorch reads.

Every payload would write the file `MARKER` next to the folder of the case.
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

from tests.campaigns.hostile.case import Case

MARKER = "marker"
TENSOR = "norm1.weight"
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class Call:
    """Pickles as the call of a function, with optional further items of `__reduce__`."""

    def __init__(self, function, *arguments, rest=()):
        self.reduced = (function, arguments, *rest)

    def __reduce__(self):
        return self.reduced


# {function that the pickle calls: payload that writes the marker, or runs a script that does}
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
    """Returns a pickled state dict with a payload in place of one tensor.

    The script of the payload is written to the folder.
    """
    marker = str(folder.parent / MARKER)
    script = folder / "payload.py"
    script.write_text(f"open({marker!r}, 'w')")
    return pickle.dumps({TENSOR: _PAYLOADS[payload](marker, script)}, protocol=2)


def archive(entries, compression=zipfile.ZIP_STORED):
    """Returns the bytes of a zip file as PyTorch writes it, with these entries."""
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w", compression) as file:
        for name, entry in {"version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name}", entry)
    return contents.getvalue()


# Containers, as functions of a pickle


def _in_legacy(described):
    """PyTorch's format before zip files: magic, version, system, pickle, names of storages."""
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
    """An array of objects: numpy's header, followed by a pickle."""
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


CASES = (*_payload_cases(), *_opcode_cases())
