"""Shared by the tests of recipes."""

import pytest

from keras_spm import PVTv2


@pytest.fixture(scope="module", autouse=True)
def two_stages():
    """A preset, `pvt_v2_two_stages`, whose training compiles in half the time."""
    arguments = {"embed_dims": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "mlp_ratios": (2, 2)}
    PVTv2.presets["two_stages"] = {**arguments, "sr_ratios": (2, 1)}
    yield
    del PVTv2.presets["two_stages"]
