"""Samples of the campaigns, which `tests/campaigns/` runs whole."""

import pytest

from tests.campaigns import distribution, downloads, interruptions, kills, published, surroundings
from tests.trainer import small_training

SAMPLE = (
    ("dropped at 50 %", published.WEIGHTS),
    ("wrong bytes", published.CONFIG),
    ("2 processes, wrong bytes", published.WEIGHTS),
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    return published.publish(tmp_path_factory.mktemp("published"))


@pytest.mark.only("torch")  # Downloads do not depend on the backend.
@pytest.mark.parametrize("chosen", SAMPLE, ids=": ".join)
def test_downloads(repositories, chosen):
    (case,) = (case for case in downloads.CASES if (case.name, case.file) == chosen)
    assert not downloads.run(case, repositories).complaints


@pytest.mark.only("torch")
def test_killed_trainings_end_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "RECIPE", small_training.Recipe(epochs=2))
    runs, equal = kills.campaign(tmp_path, 2, per_run=2)
    assert sum(run.kills for run in runs) >= 2 and all(equal)


@pytest.mark.release
@pytest.mark.only("torch")
def test_interrupted_saving_leaves_nothing_half_written(tmp_path):
    row = interruptions.saving(tmp_path, 4)
    assert (row["SIGTERM"], row["SIGINT"], row["verdict"]) == (2, 2, "right")


@pytest.mark.release
@pytest.mark.only("torch")
def test_an_unusual_system(tmp_path):
    name = "umask 077: export"
    _, complaints = surroundings.Site(tmp_path).run(name, surroundings.CASES[name])
    assert not complaints


@pytest.mark.release
@pytest.mark.only("torch")
@pytest.mark.parametrize(
    "case",
    (
        distribution.Case("torch", "SIGKILL", "checkpoint"),
        distribution.Case("torch", "SIGSTOP", "step"),
        distribution.Case("jax", "SIGKILL", "validation"),
    ),
    ids=str,
)
def test_processes_do_not_wait_for_one_that_is_lost(tmp_path, case):
    row = distribution.run(case, tmp_path)
    assert row["verdict"] == "right", row
