"""Hostile files are refused or loaded right: a sample of the campaign, and its controls."""

import random
import sys

import pytest

from tests.campaigns import hostile_files
from tests.campaigns.hostile import CASES, CONTROLS

pytestmark = [
    pytest.mark.only("torch"),  # The files are read before any backend is asked.
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does"),
]

SAMPLE = 40


def _sample():
    """The same cases in every run: of each kind in turn, until they are enough."""
    kinds = {}
    for case in CASES.values():
        kinds.setdefault(case.kind, []).append(case)
    for number, cases in enumerate(kinds.values()):
        random.Random(number).shuffle(cases)
    turns = range(max(map(len, kinds.values())))
    in_turn = [cases[turn] for turn in turns for cases in kinds.values() if turn < len(cases)]
    return in_turn[:SAMPLE]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return hostile_files.Sandbox(tmp_path_factory.mktemp("sandbox").resolve())


@pytest.mark.parametrize("case", _sample(), ids=lambda case: case.key)
def test_nothing_comes_of_a_hostile_file(sandbox, case):
    result = sandbox.run(case)
    assert not result.failed, result.outcome


@pytest.mark.parametrize("name", CONTROLS)
def test_what_must_not_be_is_noticed(sandbox, name):
    case, outcome = CONTROLS[name]
    result = sandbox.run(case)
    assert result.failed and outcome in result.outcome
