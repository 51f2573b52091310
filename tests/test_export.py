"""Exported files compute what the model does, in their own runtimes."""

import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import cli
from keras_spm.export import FORMATS, ExportError, ServedModel, run_exported, verify
from keras_spm.export import verification
from tests import exported, golden
from tests.helpers import difference, error_message, randomize

BACKEND = keras.config.backend()
WRITTEN = [name for name, each in FORMATS.items() if BACKEND in each.writers]
SHAPES = ((1, 64, 64), (2, 65, 47))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch, request):
    """Runs files here: a process for each would take longer than all the rest."""
    if request.node.get_closest_marker("in_new_process"):
        return

    def run(filepath, format, batches):
        opened = run_exported.OPENERS[format](str(filepath))
        return [opened(batch) for batch in batches]

    monkeypatch.setattr(verification, "_run", run)


def _path(folder, name):
    return folder / f"model{FORMATS[name].suffix}"


@pytest.mark.parametrize("task", exported.TASKS)
@pytest.mark.parametrize("name", WRITTEN)
def test_task(name, task, tmp_path):
    model = exported.TASKS[task]()
    model.export(_path(tmp_path, name), format=name, verbose=False)
    assert verify(model, _path(tmp_path, name), name, shapes=SHAPES) <= 1e-4
