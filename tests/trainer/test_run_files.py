"""Files of a run: unusual file systems, other files between checkpoints, invalid contents."""

import errno
import fcntl
import hashlib
import math
import os

import numpy as np
import pytest

from keras_spm import trainer
from keras_spm.files import flush
from keras_spm.trainer.callbacks import History
from keras_spm.trainer.checkpoints import Checkpoints, remove_checkpoints
from keras_spm.trainer.run_folder import RunFolder
from tests.trainer.small_training import Recipe

pytestmark = pytest.mark.only("torch")  # Files are the same on every backend.


def _refuse(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


def test_files_that_cannot_be_flushed(tmp_path, monkeypatch):
    """A file system that cannot flush is no reason to stop; a disk that fails is one."""
    (tmp_path / "file").write_text("")
    for number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        monkeypatch.setattr(os, "fsync", _refuse(number))
        flush(tmp_path)
        flush(tmp_path / "file")
    monkeypatch.setattr(os, "fsync", _refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        flush(tmp_path / "file")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_file_systems_without_flock(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", _refuse(number))
    folder = RunFolder(tmp_path / "run")
    with pytest.warns(UserWarning) as caught:
        folder.start(Recipe())
    assert len(caught) == 1 and "lock" in str(caught[0].message)
    folder.finish({"accuracy": 1.0})
    assert folder.result == {"accuracy": 1.0}


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", tmp_path / "best.keras")
    assert checkpoints.last() is None
    (tmp_path / "checkpoints").mkdir()
    return checkpoints


def _save(checkpoints, step):
    checkpoints.save(step, {"a": np.full(2, float(step))}, {})


def test_folders_of_the_user_with_names_of_checkpoints_are_kept(checkpoints, tmp_path):
    folder, other = tmp_path / "checkpoints", tmp_path / "other"
    for path in (folder / "step-3", folder / "step-000000001", folder / "step-000000999", other):
        path.mkdir()
        (path / "mine.txt").write_text(path.name)
    (folder / "step-000000002").symlink_to(other)
    (folder / "step-000000003").write_text("mine")
    for step in range(6):
        _save(checkpoints, step)
    last = Checkpoints(folder, tmp_path / "best.keras").last()
    assert last.step == 5 and last.arrays["a"].tolist() == [5, 5]
    kept = {
        "step-3": True,
        "step-000000001-not-a-checkpoint": True,
        "step-000000002-not-a-checkpoint": True,
        "step-000000003-not-a-checkpoint": False,
        "step-000000999": True,
    }
    saved = {"step-000000004": False, "step-000000005": False}
    found = {path.name: (path / "mine.txt").is_file() for path in folder.iterdir()}
    assert found == {**kept, **saved}
    remove_checkpoints(folder)
    assert {path.name for path in folder.iterdir()} == kept.keys()
    assert (other / "mine.txt").read_text() == "other"


def test_invalid_contents_with_right_checksums(checkpoints, tmp_path):
    invalid = {"progress.json": "[" * 100_000, "state.safetensors": "not arrays"}
    for step, (name, contents) in enumerate(invalid.items()):
        _save(checkpoints, step)
        path = tmp_path / f"checkpoints/step-{step:09}"
        (path / name).write_text(contents)
        sums = [
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in path.iterdir()
            if file.name != "SHA256SUMS"
        ]
        (path / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(trainer.TrainingError, match="step-000000001 is damaged .*step-000000000"):
        checkpoints.last()


@pytest.mark.parametrize("name", ["recipe.json", "environment.json"])
def test_broken_settings_of_a_run(tmp_path, name):
    folder = RunFolder(tmp_path / "run")
    folder.working_path.mkdir()
    for each in ("recipe.json", "environment.json"):
        folder.write(each, {})
    (folder.working_path / name).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{name} is not a JSON file"):
        folder.start(Recipe())


class _Model:
    """Writes the number of the epoch in place of a model."""

    epoch = 0

    def save(self, path):
        path.write_text(str(self.epoch))


def _best(folder, monitor, values):
    """Returns (history, epochs in which the model was saved) of the metric `AP` in the logs."""
    history, model, saved = History(folder, monitor), _Model(), []
    for epoch, value in enumerate(values, start=1):
        model.epoch = epoch
        history.add(model, {"loss": 1.0} | ({} if value is None else {"AP": value}))
        saved.append(int((folder / "best.keras").read_text()))
    return history, saved


def test_metrics_that_are_not_measured_in_every_epoch(tmp_path):
    with pytest.warns(UserWarning, match="'AP', which selects the best epoch, .*: loss"):
        history, saved = _best(tmp_path, ("AP", "max"), [None, None, 0.25, None, 0.5, None, 0.5])
    assert saved == [1, 2, 3, 3, 5, 5, 5] and history.best_epoch == 5
    np.testing.assert_equal(
        history.metrics["AP"], [math.nan, math.nan, 0.25, math.nan, 0.5] + [math.nan, 0.5]
    )
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,AP,loss" and lines[3] == "2,0.25,1.0" and len(lines) == 8
    history, saved = _best(tmp_path, ("loss", "min"), [None, 0.25])
    assert saved == [1, 1] and history.best_epoch == 1
