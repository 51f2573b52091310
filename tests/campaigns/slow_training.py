"""Imported by the trainings of the campaign: validation and checkpoints take seconds."""

import os
import pathlib
import time

import safetensors.numpy

import keras_spm

_FOLDER = pathlib.Path(os.environ["PHASES"])
_SECONDS = 3.0


def _slow(owner, name, phase):
    original = getattr(owner, name)

    def slow(*args, **kwargs):
        (_FOLDER / f"{phase}-{os.getpid()}").touch()
        time.sleep(_SECONDS)
        return original(*args, **kwargs)

    setattr(owner, name, slow)


_slow(keras_spm.ImageClassifier, "evaluate", "validation")
_slow(safetensors.numpy, "save", "checkpoint")
