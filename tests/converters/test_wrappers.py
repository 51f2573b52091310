"""Checkpoints of training code: prefixes of wrappers, and moving averages."""

import numpy as np
import pytest

from keras_spm import load_torch_weights
from keras_spm.weights import MismatchError
from tests import golden
from tests.helpers import randomize, to_numpy

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

STATE = golden.state("timm_pvt_v2")


@pytest.fixture(scope="module")
def model():
    return golden.classifier("timm_pvt_v2")


def _values(model):
    return {variable.path: np.array(to_numpy(variable)) for variable in model.weights}


def _same(left, right):
    return left.keys() == right.keys() and all((left[key] == right[key]).all() for key in left)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "_orig_mod.module."),
        *("model._orig_mod.", "model.module.backbone.", "_orig_mod.model.backbone._orig_mod."),
    ],
)
def test_prefixes_of_wrappers(model, prefix):
    """Of torch.compile, parallel training, Lightning, and a backbone in another model."""
    load_torch_weights(model, STATE)
    expected = _values(model)
    randomize(model)
    state = {f"{prefix}{key}": value for key, value in STATE.items()}
    report = load_torch_weights(model, state)
    assert report.source == f"the mapping without the prefix {prefix!r}"
    assert _same(_values(model), expected) and model.load_report is report
    # Not a prefix, if some names do not have it.
    name = next(iter(state))
    state[name.removeprefix(prefix)] = state.pop(name)
    with pytest.raises(MismatchError):
        load_torch_weights(model, state)


@pytest.mark.parametrize(
    ("make", "used"),
    [
        (lambda weights, averages: {"model": weights, "model_ema": averages}, "model_ema"),
        (
            lambda weights, averages: {"state_dict_ema": averages, "state_dict": weights},
            "state_dict_ema",
        ),
        (lambda weights, averages: {"model": averages, "model_ema": None}, "model"),
        (lambda weights, averages: {"state_dict": averages, "epoch": 3}, "state_dict"),
    ],
)
def test_averages_are_preferred(model, make, used):
    """As timm does, which writes `state_dict_ema`; `model_ema` is DeiT's and torchvision's."""
    averages = {
        key: value + value.dtype.type(value.dtype.kind == "f") for key, value in STATE.items()
    }
    load_torch_weights(model, averages)
    expected = _values(model)
    wrapped = {"n_averaged": np.array(5), **{f"module.{key}": v for key, v in averages.items()}}
    report = load_torch_weights(model, make(STATE, wrapped))
    assert _same(_values(model), expected)
    assert report.source == f"the mapping[{used!r}] without the prefix 'module.'"
    assert report.source in str(report)
