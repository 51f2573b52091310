"""The hostile corpus: files that must not be trusted, one group per module."""

from tests.campaigns.hostile import (
    configurations,
    controls,
    damage,
    headers,
    indexes,
    pickles,
    state_dicts,
    unusual_files,
)

_GROUPS = (headers, damage, pickles, state_dicts, indexes, configurations, unusual_files)
# {key: case}, in this order.
CASES = {case.key: case for group in _GROUPS for case in group.CASES}
# Cases that must fail the campaign: {key: (case, part of the outcome)}.
CONTROLS = {case.key: (case, outcome) for case, outcome in controls.CASES.items()}
