"""Pipes, devices, links and folders instead of regular files."""

import json
import os

import keras_spm
from tests.campaigns.hostile.case import CONFIG, FOLDER_WEIGHTS, INDEX, PROCESSOR, WEIGHTS, Case

_KIND_OF_FILE, _KIND_OF_FOLDER = "unusual file", "unusual folder"


def _pipe(path):
    os.mkfifo(path)


def _to_itself(path):
    path.symlink_to(path.name)


def _to(target):
    return lambda path: path.symlink_to(target)


# What stands at a path instead of a plain file.
_UNUSUAL = {
    "a pipe": _pipe,
    "a folder": lambda path: path.mkdir(),
    "a link to /dev/zero": _to("/dev/zero"),
    "a link to itself": _to_itself,
    "a link to nowhere": _to("nowhere"),
    "no bytes": lambda path: path.touch(),
}


def _at(name, make):
    return lambda folder, valid: make(folder / name)


def _instead(name, make):
    """A writer of a valid saved folder in which something else stands for a file."""

    def write(folder, valid):
        valid.copy("pvt_v2", folder)
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return write


def _cases():
    for path in (WEIGHTS, "weights.pth"):
        for title, make in _UNUSUAL.items():
            yield Case(_KIND_OF_FILE, f"{title} as {path}", _at(path, make), path)
    for name in (CONFIG, FOLDER_WEIGHTS):
        for title, make in _UNUSUAL.items():
            case = f"{title} as {name}"
            yield Case(_KIND_OF_FOLDER, case, _instead(name, make), ".", keras_spm.PVTv2)
    yield Case(_KIND_OF_FOLDER, "linked weights", _linked, ".", keras_spm.PVTv2)
    yield Case(_KIND_OF_FOLDER, "an index beside the weights", _index, ".", keras_spm.PVTv2)
    yield Case(_KIND_OF_FOLDER, "a pipe as the processor", _processor, ".", _CLASSIFIER)
    yield Case(_KIND_OF_FOLDER, "another model's weights", _others, ".", keras_spm.PVTv2)


_CLASSIFIER = keras_spm.ImageClassifier


def _linked(folder, valid):
    """As in the cache of the hub: valid files, elsewhere."""
    for name in (CONFIG, FOLDER_WEIGHTS):
        (folder / name).symlink_to(valid.folder / "pvt_v2" / name)


def _index(folder, valid):
    """Whole weights count, whatever an index beside them says."""
    valid.copy("pvt_v2", folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../a"}}))


def _processor(folder, valid):
    valid.copy("transformers_pvt_v2", folder)
    (folder / PROCESSOR).unlink()
    _pipe(folder / PROCESSOR)


def _others(folder, valid):
    valid.copy("pvt_v2", folder)
    (folder / FOLDER_WEIGHTS).write_bytes((valid.folder / "swin_spm" / FOLDER_WEIGHTS).read_bytes())


CASES = tuple(_cases())
