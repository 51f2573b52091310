"""State dicts with unusual tensors and contents, and weights under the name of another format."""

import collections
import io
import pickle

import torch

from tests.campaigns.hostile.case import WEIGHTS, Case, tensors
from tests.campaigns.hostile.pickles import TENSOR, Call, archive

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
    """Returns a writer of an archive with one tensor."""

    def write(folder, valid):
        described = {"data.pkl": _described({TENSOR: tensor}), "data/0": data}
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


# State dicts with other contents


def _saved(change, source="pvt_v2"):
    """Returns a writer of a state dict changed by `change`, which may return another one."""

    def write(folder, valid):
        content = tensors(source)
        changed = change(content)
        torch.save(content if changed is None else changed, folder / "weights.pth")

    return write


def _replaced(make):
    """Returns a writer of a valid state dict with another value for one tensor."""
    return _saved(lambda content: content.update({TENSOR: make(content[TENSOR])}))


def _every(make):
    return _saved(lambda content: {name: make(tensor) for name, tensor in content.items()})


def _recursive(content):
    content["model"] = content


def _quantized(tensor):
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _attribute(**attributes):
    """Returns a change to a dict with these attributes, which shadow methods of its class."""

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
    """Returns a writer of valid weights under the name of another format."""
    source = WEIGHTS if name == "weights.pth" else "weights.pth"
    return lambda folder, valid: (folder / name).write_bytes(valid.read(source))


_NAMES = ("weights.safetensors", "weights.pth", "weights.pkl", "weights.npz", "weights")


def _misnamed_cases():
    for name in _NAMES:
        yield Case("misnamed", f"another format as {name}", _as(name), name)


def _named(kind, writers, model="pvt_v2"):
    return (Case(kind, name, write, "weights.pth", model) for name, write in writers.items())


CASES = (*_named("torch tensor", _TENSORS), *_named("state dict", _STATES), *_misnamed_cases())
