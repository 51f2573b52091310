"""Focal loss against its definition in float64, and its central differences."""

import numpy as np
import pytest

from keras_spm.losses import sigmoid_focal_loss
from tests.helpers import to_numpy
from tests.losses.differences import central_differences, value_and_gradient

SETTINGS = [(0.25, 2.0), (0.5, 0.0), (0.9, 0.5), (1.0, 5.0)]


def _definition(targets, logits, alpha=0.25, gamma=2.0):
    signed_logits = np.where(targets == 1, logits, -logits)
    weights = np.where(targets == 1, alpha, 1 - alpha)
    log_probabilities = -np.logaddexp(0, -signed_logits)
    modulation = np.exp(-gamma * np.logaddexp(0, signed_logits))
    return -weights * modulation * log_probabilities


def _examples():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 4, (5, 7, 3)).astype("float32")
    return generator.integers(0, 2, logits.shape), logits


@pytest.mark.parametrize(("alpha", "gamma"), SETTINGS)
def test_values_and_gradients(alpha, gamma):
    targets, logits = _examples()
    value, gradient = value_and_gradient(
        lambda logits: sigmoid_focal_loss(targets, logits, alpha, gamma), logits
    )
    np.testing.assert_allclose(value, _definition(targets, logits, alpha, gamma), 1e-5, 1e-7)
    expected = central_differences(lambda each: _definition(targets, each, alpha, gamma), logits)
    np.testing.assert_allclose(gradient, expected, 1e-5, 1e-7)


def test_example_of_the_paper():
    """Section 3.2: gamma 2 divides the loss by 100 for p = 0.9, and by 1000 for p = 0.968."""
    logits = np.log([9, 0.968 / 0.032])
    plain, focal = (to_numpy(sigmoid_focal_loss([1, 1], logits, gamma=each)) for each in (0, 2))
    np.testing.assert_allclose(plain / focal, [100, 1 / 0.032**2], rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("alpha", "gamma"), SETTINGS)
def test_extreme_logits(alpha, gamma, dtype):
    logits = np.array([-1e4, -100, -20, 0, 20, 100, 1e4] * 2, dtype)
    targets = np.repeat([0, 1], 7)
    value, gradient = value_and_gradient(
        lambda logits: sigmoid_focal_loss(targets, logits, alpha, gamma), logits
    )
    assert value.dtype == "float32" and gradient.dtype == dtype
    expected = _definition(targets, logits.astype("float64"), alpha, gamma)
    np.testing.assert_allclose(value, expected, 1e-5, 1e-37)
    assert np.isfinite(gradient).all()
    # The loss is linear in confident wrong logits.
    np.testing.assert_allclose(gradient[[6, 7]], [1 - alpha, -alpha], rtol=1e-3)
    np.testing.assert_array_equal(gradient[[0, 13]], 0)


@pytest.mark.parametrize("target_dtype", ["bool", "int32", "float16"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_focal_loss_is_computed_in_float32(dtype, target_dtype):
    targets, logits = _examples()
    logits = logits.astype(dtype)
    value = to_numpy(sigmoid_focal_loss(targets.astype(target_dtype), logits))
    assert value.dtype == "float32"
    np.testing.assert_allclose(value, _definition(targets, logits.astype("float64")), 1e-5, 1e-7)
