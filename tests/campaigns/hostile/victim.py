"""The process that loads one hostile file, and judges what came of it."""

import os
import resource
import tempfile
import time

import numpy as np
import safetensors.torch
import torch

import keras_spm
from keras_spm.weights import WeightsError
from tests.campaigns.hostile import CASES, CONTROLS
from tests.campaigns.hostile.case import FOLDER_WEIGHTS, INDEX
from tests.helpers import to_numpy

MEMORY = 2 << 30  # Bytes that a load may take, beside what the process has already.
LONGEST_MESSAGE = 5_000
READY = "ready"
RIGHT = "loaded right"
FAILED = "failed"
_CHANNELS = 64  # Of the last map of every golden.


def load(connection, key, folder):
    """Loads a case's file, and sends over the connection what came of it.

    Sent are `READY` once all is imported and the model is built, the seconds that the
    load took, and the outcome: `RIGHT`, the name of a documented error, or what is wrong,
    beginning with `FAILED`.
    """
    case = CASES[key] if key in CASES else CONTROLS[key][0]
    model, load_case = case.prepare(folder)
    before = None if model is None else _values(model)
    _confine(folder)
    connection.send(READY)
    start = time.perf_counter()
    loaded, error = None, None
    try:
        loaded = load_case()
    except BaseException as raised:  # Rust's panics are no Exception.
        error = raised
    connection.send(time.perf_counter() - start)
    if error is None:
        outcome = _judge_model(loaded, folder / case.path)
    else:
        outcome = _judge_error(error, folder)
        if model is not None and not _same(_values(model), before):
            outcome = f"{FAILED}: the model was changed before {type(error).__name__}"
    connection.send(outcome)


def _confine(folder):
    """Leaves little memory, and no way but an absolute path out of the folder."""
    os.chdir(folder)
    os.environ.update(HOME=str(folder), TMPDIR=str(folder))
    tempfile.tempdir = None
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _judge_error(error, folder):
    if not isinstance(error, (WeightsError, FileNotFoundError)):
        return f"{FAILED}: {type(error).__name__}: {str(error)[:500]}"
    message = str(error)
    if str(folder) not in message:
        return f"{FAILED}: the message does not name the file: {message[:500]}"
    if len(message) > LONGEST_MESSAGE:
        return f"{FAILED}: a message of {len(message)} characters"
    try:
        message.encode()
    except UnicodeEncodeError as unprintable:
        return f"{FAILED}: a message that cannot be printed: {unprintable}"
    return type(error).__name__


def _judge_model(model, path):
    """Compares a loaded model with what other libraries read from the same file."""
    report = model.load_report
    if report.layout == "keras_spm":
        values = _values(model)
    else:
        values = keras_spm.to_torch_state_dict(model, report.layout)
    read = _read(path)
    for name, value in values.items():
        # Counters are made anew, and resizing is compared with PyTorch's in other tests.
        if name.endswith("num_batches_tracked") or name in report.resized:
            continue
        if name not in read:
            return f"{FAILED}: {name} is not in the file"
        if not _equal(value, read[name].detach().float().numpy()):
            return f"{FAILED}: {name} is not what the file holds"
    channels = getattr(model, "num_classes", _CHANNELS)
    if model.output_shape[-1] != channels:
        return f"{FAILED}: the model's outputs are {model.output_shape}"
    return RIGHT


def _read(path):
    """{name: tensor} as the formats' own libraries read them."""
    if path.is_dir():
        path = next(each for each in (path / FOLDER_WEIGHTS, path / INDEX) if each.exists())
    if path.name == INDEX:
        shards = path.parent.glob("*.safetensors")
        return {name: tensor for shard in shards for name, tensor in _read(shard).items()}
    if path.suffix == ".safetensors":
        content = safetensors.torch.load_file(path)
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        content = dict.get(content, wrapper, content)
    return {name.removeprefix("module."): tensor for name, tensor in dict.items(content)}


def _values(model):
    return {variable.path: to_numpy(variable).copy() for variable in model.weights}


def _same(left, right):
    return left.keys() == right.keys() and all(_equal(left[path], right[path]) for path in left)


def _equal(left, right):
    """Whether two arrays are the same bit for bit."""
    return left.shape == right.shape and np.array_equal(left.view("int32"), right.view("int32"))
