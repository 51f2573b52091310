"""The hostile corpus: kinds of files that must not be trusted, one group a module."""

from tests.campaigns.hostile import (
    configurations,
    controls,
    damage,
    headers,
    indexes,
    pickles,
    unusual_files,
)

_GROUPS = (headers, damage, pickles, indexes, configurations, unusual_files)
# By their keys, in this order.
CASES = {case.key: case for group in _GROUPS for case in group.CASES}
# Their like, that must fail: {key: (case, part of the outcome)}.
CONTROLS = {case.key: (case, outcome) for case, outcome in controls.CASES.items()}
