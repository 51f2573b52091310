"""The watchdog of several processes; `tests/campaigns/distribution.py` kills real ones."""

import json
import os

import pytest

from keras_spm.backend import processes, replicas
from keras_spm.trainer import TrainingError, watchdog

pytestmark = pytest.mark.only("torch")


class Ended(BaseException):
    """Instead of the end of this process."""


@pytest.fixture
def guarded(tmp_path, monkeypatch):
    """A watchdog of the second of three processes."""
    active = replicas.Replicas(count=3, available=3, process=1, processes=3)
    monkeypatch.setattr(watchdog, "LONGEST_SILENCE", 0.3)
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.05)
    monkeypatch.setattr(watchdog, "_PATIENCE", 0.2)
    monkeypatch.setattr(watchdog.signal, "signal", lambda *_: None)
    monkeypatch.setattr(processes, "of_first_process", lambda _: 7)

    def end(status):
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    with replicas.activated(active):
        yield watchdog.Watchdog(tmp_path, lambda: 12, lambda: "There is no checkpoint.")


def write(folder, process, **state):
    state = {"run": 7, "step": 11, "time": 0, "pid": 0, **state}
    (folder / f"process-{process}.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "error", [RuntimeError("Connection reset"), ValueError("UNKNOWN: Gloo AllGather failed")]
)
def test_a_lost_process_is_named(guarded, tmp_path, capsys, error):
    write(tmp_path, 0)
    write(tmp_path, 2, ended=True)
    with pytest.raises(Ended), guarded:
        raise error
    first, second = capsys.readouterr().err.splitlines()
    assert "Process 1 failed after step 12" in first and str(error) in first
    assert "process 0 at step 11, process 2 at step 11" in first
    assert second.startswith("error: After step 12, process 0 gave no sign of life for")
    assert second.endswith("Its last step was 11. There is no checkpoint.")


def test_the_error_of_another_process_is_raised(guarded, tmp_path):
    write(tmp_path, 0, ended=True, error="the disk is full")
    text = "process 0 ended at its step 11: the disk is full"
    with pytest.raises(TrainingError, match=text), guarded:
        raise RuntimeError("Connection reset")


@pytest.mark.parametrize("error", [ValueError("`batch_size` must be 8"), TrainingError("step 3")])
def test_an_error_of_this_process_is_raised_at_once(guarded, tmp_path, capsys, error):
    write(tmp_path, 0)
    with pytest.raises(type(error), match=str(error)), guarded:
        raise error
    assert not capsys.readouterr().err
    state = json.loads((tmp_path / "process-1.json").read_text())
    assert state["ended"] and state["error"] == str(error)


def test_a_lost_process_does_not_concern_one_that_has_finished(guarded, tmp_path):
    write(tmp_path, 0)
    with guarded:
        pass
    assert json.loads((tmp_path / "process-1.json").read_text())["error"] is None
