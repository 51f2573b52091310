"""Checkpoints on the disk: complete or not there, checked when they are read."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import warnings

from keras_spm.trainer.errors import TrainingError
from keras_spm.trainer.files import flush
from keras_spm.trainer.files import written_beside
from keras_spm.weights.formats import sha256_of

_KEPT = 2
_STATE, _PROGRESS, _SUMS = "state.safetensors", "progress.json", "SHA256SUMS"
_UNFINISHED = "unfinished"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a training was.

    Attributes:
        step: int, how many batches it had trained on.
        arrays: {name: numpy array}, of the model, its optimizer and random generators.
        progress: dict, as JSON takes it.
        path: the folder.
    """

    step: int
    arrays: dict
    progress: dict
    path: pathlib.Path


class Checkpoints:
    """The checkpoints of a run, of which the last two are kept.

    Each is a folder `step-N` with arrays, progress, a file that goes with them, and their
    sums, as `sha256sum --check` takes them. It is written beside, as `unfinished`, and gets
    its name when all is on the disk.

    Args:
        folder: path.
        companion: path of the file that goes with a checkpoint: as it is now into the next
            one, and back to its place from the one that is read. It must only ever be
            replaced, never changed, for it is linked, not copied, where that is possible.
    """

    def __init__(self, folder, companion):
        self._folder = pathlib.Path(folder)
        self._companion = pathlib.Path(companion)
        self._whole = []

    def last(self):
        """Reads the last complete checkpoint; warns of damaged ones that are later.

        Returns:
            A `Checkpoint`, or None where there is none yet.

        Raises:
            TrainingError: where there are some, and all are damaged.
        """
        invalid_annotations = []
        if (self._folder / _UNFINISHED).exists():  # By a process that was killed.
            shutil.rmtree(self._folder / _UNFINISHED)
        for path in sorted(self._folder.glob("step-*"), reverse=True):
            try:
                checkpoint = _read(path, self._companion.name)
            except (_DamagedError, OSError) as error:
                invalid_annotations.append(f"{path} is damaged ({error})")
                continue
            for problem in invalid_annotations:
                warnings.warn(f"{problem}; {path.name} is used instead.", stacklevel=3)
            self._whole = [path]
            self._put_back(path)
            return checkpoint
        if invalid_annotations:
            raise TrainingError(
                f"No checkpoint is left to go on from: {'; '.join(invalid_annotations)}. Delete "
                f"{self._folder.parent} to train from the beginning."
            )
        self._companion.unlink(missing_ok=True)
        return None

    def save(self, step, arrays, progress):
        """Writes a checkpoint.

        Raises:
            TrainingError: where it cannot be written. Earlier ones stay as they were.
        """
        path = self._folder / f"step-{step:09}"
        try:
            self._write(path, arrays, progress)
        except OSError as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._folder / _UNFINISHED)
            raise TrainingError(
                f"The checkpoint of step {step} cannot be written to {self._folder}: "
                f"{error.strerror}. {self.kept()}"
            ) from error
        self._whole = [*(each for each in self._whole if each != path), path][-_KEPT:]
        for other in self._folder.iterdir():
            if other not in self._whole:
                shutil.rmtree(other)

    def kept(self):
        """Says from where the run can go on."""
        if not self._whole:
            return "No checkpoint was written before."
        return f"{self._whole[-1]} is whole: the same command goes on from there."

    def _write(self, path, arrays, progress):
        from safetensors.numpy import save

        unfinished = self._folder / _UNFINISHED
        unfinished.mkdir(parents=True)
        (unfinished / _STATE).write_bytes(save(arrays))
        (unfinished / _PROGRESS).write_text(json.dumps(progress))
        if self._companion.exists():
            _link(self._companion, unfinished / self._companion.name)
        files = sorted(unfinished.iterdir())
        sums = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
        (unfinished / _SUMS).write_text(sums)
        for each in (*files, unfinished / _SUMS, unfinished):
            flush(each)
        if path.exists():  # Damaged, or the run was put back to before it.
            shutil.rmtree(path)
        os.rename(unfinished, path)
        flush(self._folder)

    def _put_back(self, path):
        companion = path / self._companion.name
        if companion.exists():
            with written_beside(self._companion) as beside:
                _link(companion, beside)
        else:
            self._companion.unlink(missing_ok=True)


class _DamagedError(Exception):
    pass


def _read(path, companion):
    sums = {}
    for line in _bytes(path / _SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    there = {file.name for file in path.iterdir()} - {_SUMS}
    if not {_STATE, _PROGRESS} <= there <= {_STATE, _PROGRESS, companion}:
        raise _DamagedError(f"it holds {', '.join(sorted(there)) or 'nothing'}")
    if sums.keys() != there:
        raise _DamagedError(f"{_SUMS} lists {', '.join(sorted(sums)) or 'nothing'}")
    for name, digest in sums.items():
        if sha256_of(path / name) != digest:
            raise _DamagedError(f"{name} has another sum than {_SUMS} says")
    from safetensors.numpy import load

    progress = json.loads(_bytes(path / _PROGRESS))
    step = int(path.name.removeprefix("step-"))
    return Checkpoint(step, load(_bytes(path / _STATE)), progress, path)


def _bytes(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _DamagedError(f"{path.name} is missing") from None


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # A file system without links.
        shutil.copyfile(source, target)
