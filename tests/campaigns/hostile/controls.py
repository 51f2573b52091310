"""What the campaign must notice: loaders that do what none may."""

import dataclasses
import os
import pickle
import signal

import keras_spm
from keras_spm.weights import FormatError
from tests.campaigns.hostile.case import WEIGHTS, Case
from tests.campaigns.hostile.pickles import pickled


class _Loader:
    """A stand-in for a class with `from_preset`."""

    def __init__(self, function):
        self.from_preset = function


def _run_code(path):
    pickle.loads((path / WEIGHTS).read_bytes())
    raise FormatError(f"{path} is no model.")


def _hang(path):
    signal.pause()


def _crash(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def _take_memory(path):
    return bytearray(3 << 30)


def _fail(path):
    raise KeyError("norm1.weight")


def _name_nothing(path):
    raise FormatError("The file is not valid.")


def _change_a_value(path):
    backbone = keras_spm.PVTv2.from_preset(path)
    backbone.weights[0].assign(backbone.weights[0] + 1)
    return backbone


@dataclasses.dataclass(frozen=True)
class _Changing(Case):
    """Assigns a value before it refuses the file."""

    def prepare(self, folder):
        model, _ = super().prepare(folder)

        def load():
            model.weights[0].assign(model.weights[0] + 1)
            raise FormatError(f"{folder} is no model.")

        return model, load


def _write(folder, valid):
    valid.copy("pvt_v2", folder)
    (folder / WEIGHTS).write_bytes(pickled("builtins.open", folder))


def _case(name, load):
    return Case("control", name, _write, ".", _Loader(load))


# Each with a part of the outcome that it must have.
CASES = {
    _case("runs code", _run_code): "marker",
    _case("hangs", _hang): "nothing was heard",
    _case("crashes", _crash): "ended with -11",
    _case("takes memory", _take_memory): "MemoryError",
    _case("raises another error", _fail): "KeyError",
    _case("does not name the file", _name_nothing): "does not name the file",
    _case("loads another value", _change_a_value): "is not what the file holds",
    _Changing("control", "changes the model", _write): "the model was changed",
}
