"""A fixed sample of the download campaign, which `tests/campaigns/` runs whole."""

import pytest

from tests.campaigns import downloads
from tests.campaigns import published

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

SAMPLE = (
    ("dropped at 50 %", published.WEIGHTS),
    ("wrong bytes", published.CONFIG),
    ("disk full", published.WEIGHTS),
    ("read-only cache, empty", published.CONFIG),
    ("killed at 50 %", published.WEIGHTS),
    ("2 processes, wrong bytes", published.WEIGHTS),
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    return published.publish(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("chosen", SAMPLE, ids=": ".join)
def test_downloads(repositories, chosen):
    (case,) = (case for case in downloads.CASES if (case.name, case.file) == chosen)
    assert not downloads.run(case, repositories).complaints
