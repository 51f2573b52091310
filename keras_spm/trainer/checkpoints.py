"""Checkpoints: the state of a training as arrays, and their files on the disk."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import warnings
from typing import Any

import keras
import numpy as np

from keras_spm.backend import random_state, set_random_state
from keras_spm.files import atomic_write, flush, read_json_object
from keras_spm.types import PathLike
from keras_spm.weights.formats import sha256_of

_KEPT = 2
_STATE, _PROGRESS, _SUMS = "state.safetensors", "progress.json", "SHA256SUMS"
_UNFINISHED = "unfinished"
_METRICS, _RANDOM = "metrics", "random"


class TrainingError(RuntimeError):
    """A training cannot continue. The message has the cause and the last checkpoint."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        step: int, the number of finished steps.
        arrays: {name: array}, state of the model, its optimizer and random generators.
        progress: JSON-serializable dict.
        path: folder of the checkpoint.
    """

    step: int
    arrays: dict[str, np.ndarray]
    progress: dict[str, Any]
    path: pathlib.Path


class Checkpoints:
    """The checkpoints of a run. The last two are kept.

    A checkpoint is a folder `step-N` with arrays, progress, the companion file, and a file
    `SHA256SUMS` in the format of `sha256sum`. It is written as `unfinished`, and renamed when
    all files are on the disk. Other files and folders next to the checkpoints are kept.

    Args:
        folder: path.
        companion: path of a file, such as the best model, that is saved and restored with each
            checkpoint. The file must be replaced, not modified, because checkpoints contain
            hard links to it where the file system supports them.
    """

    def __init__(self, folder: PathLike, companion: PathLike):
        self._folder = pathlib.Path(folder)
        self._unfinished = self._folder / _UNFINISHED
        self._companion = pathlib.Path(companion)
        self._valid = []

    def last(self) -> Checkpoint | None:
        """Reads the last valid checkpoint and restores the companion file.

        Warns of later checkpoints that are damaged.

        Returns:
            `Checkpoint`, or None if there is none.

        Raises:
            TrainingError: if all checkpoints are damaged.
        """
        damaged = []
        shutil.rmtree(self._unfinished, ignore_errors=True)  # Of a killed process.
        for path in reversed(checkpoint_folders(self._folder)):
            try:
                checkpoint = _read(path, self._companion.name)
            except (_DamagedError, OSError) as error:
                damaged.append(f"{path} is damaged ({error})")
                continue
            for message in damaged:
                warnings.warn(f"{message}; {path.name} is used instead.", stacklevel=3)
            self._valid = [path]
            self._restore_companion(path)
            return checkpoint
        if damaged:
            raise TrainingError(
                f"There is no valid checkpoint: {'; '.join(damaged)}. Delete "
                f"{self._folder.parent} to train from the beginning."
            )
        self._companion.unlink(missing_ok=True)
        return None

    def save(self, step: int, arrays: dict[str, np.ndarray], progress: dict[str, Any]) -> None:
        """Writes a checkpoint and removes all but the last two.

        Raises:
            TrainingError: if it cannot be written. Earlier checkpoints are unchanged.
        """
        path = self._folder / _name(step)
        try:
            self._write(path, arrays, progress)
        except OSError as error:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            raise TrainingError(
                f"The checkpoint of step {step} cannot be written to {self._folder}: "
                f"{error.strerror}. {self.describe_last()}"
            ) from error
        self._valid = [*(each for each in self._valid if each != path), path][-_KEPT:]
        for other in checkpoint_folders(self._folder):
            if other not in self._valid:
                shutil.rmtree(other, ignore_errors=True)

    def describe_last(self) -> str:
        """Returns a sentence about the checkpoint that a later run will resume from."""
        if not self._valid:
            return "There is no checkpoint yet."
        return f"{self._valid[-1]} is valid: the same command resumes from it."

    def _write(self, path, arrays, progress):
        from safetensors.numpy import save

        self._unfinished.mkdir(parents=True, exist_ok=True)
        files = [self._unfinished / name for name in (_STATE, _PROGRESS)]
        files[0].write_bytes(save(arrays))
        files[1].write_text(json.dumps(progress))
        if self._companion.exists():
            files.append(self._unfinished / self._companion.name)
            _link(self._companion, files[-1])
        sums = self._unfinished / _SUMS
        sums.write_text("".join(f"{sha256_of(file)}  {file.name}\n" for file in files))
        for each in (*files, sums, self._unfinished):
            flush(each)
        if _is_checkpoint(path):  # Damaged, or the run was restored to an earlier step.
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.rename(path.with_name(f"{path.name}-not-a-checkpoint"))
        os.rename(self._unfinished, path)
        flush(self._folder)

    def _restore_companion(self, path):
        saved = path / self._companion.name
        if saved.exists():
            with atomic_write(self._companion, durable=True) as temporary:
                _link(saved, temporary)
        else:
            self._companion.unlink(missing_ok=True)


def checkpoint_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints `step-N` in a folder, damaged ones too, oldest first."""
    return sorted(filter(_is_checkpoint, folder.glob("step-*")))


def describe_newest(folder: pathlib.Path) -> str:
    """Returns a sentence about the newest checkpoint in a folder, for other processes' errors."""
    found = checkpoint_folders(folder)
    if not found:
        return "There is no checkpoint yet."
    return f"{found[-1]} was saved: the same command resumes from it."


def remove_checkpoints(folder: pathlib.Path) -> None:
    """Removes the checkpoints in a folder, and the folder if nothing else is in it."""
    for path in (*checkpoint_folders(folder), folder / _UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_checkpoint(path):
    """Whether this is a folder of `Checkpoints`, whole or damaged, and not a user's."""
    number = path.name.removeprefix("step-")
    return (
        number.isdecimal()
        and path.name == _name(int(number))
        and path.is_dir()
        and not path.is_symlink()
        and any((path / name).exists() for name in (_STATE, _PROGRESS, _SUMS))
    )


def _name(step):
    return f"step-{step:09}"


class _DamagedError(Exception):
    pass


def _read(path, companion):
    sums = {}
    for line in _read_bytes(path / _SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    found = {name for name in (_STATE, _PROGRESS, companion) if (path / name).exists()}
    if not {_STATE, _PROGRESS} <= found:
        raise _DamagedError(f"it contains {', '.join(sorted(found)) or 'no files'}")
    if sums.keys() != found:
        raise _DamagedError(f"{_SUMS} lists {', '.join(sorted(sums)) or 'no files'}")
    for name, digest in sums.items():
        if sha256_of(path / name) != digest:
            raise _DamagedError(f"the checksum of {name} differs from {_SUMS}")
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        progress = read_json_object(path / _PROGRESS)
        arrays = load(_read_bytes(path / _STATE))
    except (ValueError, SafetensorError) as error:
        raise _DamagedError(str(error)) from error
    return Checkpoint(int(path.name.removeprefix("step-")), arrays, progress, path)


def _read_bytes(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _DamagedError(f"{path.name} is missing") from None


def _link(source, target):
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # The file system has no hard links.
        shutil.copyfile(source, target)


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns {name: variable} of a compiled model.

    These are the variables of the layers and their seed generators, of the optimizer (with
    averages and accumulated gradients), and of the metrics. The names are numbered: Keras's
    paths need not be unique, and depend on what was built before.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        _METRICS: model.metrics_variables,
    }
    return {
        f"{group}.{number}": variable
        for group, variables in groups.items()
        for number, variable in enumerate(variables)
    }


def get_state(model: keras.Model, metrics: bool = False) -> dict[str, np.ndarray]:
    """Returns {name: array}, a copy of all variables and of the other random state.

    Args:
        model: compiled model.
        metrics: whether to include the variables of metrics, which `fit` resets at the start
            of an epoch.
    """
    arrays = {
        name: _to_array(variable)
        for name, variable in named_variables(model).items()
        if metrics or not name.startswith(_METRICS)
    }
    return arrays | {f"{_RANDOM}.{name}": state for name, state in random_state().items()}


def set_state(model: keras.Model, arrays: dict[str, np.ndarray], metrics: bool = True) -> None:
    """Restores the result of `get_state`.

    Args:
        model: compiled model.
        arrays: {name: array}.
        metrics: whether to restore the variables of metrics, if they are included.

    Raises:
        ValueError: if the arrays do not match the variables of the model.
    """
    if not metrics:
        arrays = {name: each for name, each in arrays.items() if not name.startswith(_METRICS)}
    random = {name: array for name, array in arrays.items() if name.startswith(_RANDOM)}
    values = {name: array for name, array in arrays.items() if name not in random}
    has_metrics = any(name.startswith(_METRICS) for name in values)
    variables = {
        name: variable
        for name, variable in named_variables(model).items()
        if has_metrics or not name.startswith(_METRICS)
    }
    if {name: tuple(variable.shape) for name, variable in variables.items()} != {
        name: array.shape for name, array in values.items()
    }:
        raise ValueError("The checkpoint does not match the variables of the model.")
    for name, array in values.items():
        variables[name].assign(array)
    set_random_state({name.removeprefix(f"{_RANDOM}."): each for name, each in random.items()})


def non_finite_names(arrays: dict[str, np.ndarray]) -> list[str]:
    """Returns the names of arrays with NaN or infinite values."""
    return [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]


def _to_array(variable):
    array = np.array(keras.ops.convert_to_numpy(variable))
    # An exact conversion: safetensors has no bfloat16 for NumPy.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array
