"""Learning rates of every step, against the formulas of the official schedulers."""

import math

import keras
import numpy as np
import pytest

from keras_spm.optimizers import LinearWarmup, WarmupCosine
from keras_spm.trainer.recipe import SCHEDULES

EPOCHS, STEPS = 30, 7
# Of the steps, all on one backend.
STRIDE = 1 if keras.config.backend() == "torch" else 5
PEAK, FIRST, MINIMUM = 1e-3, 1e-6, 1e-5


def _timm(t, t_initial, warmup_t, prefix):
    """`CosineLRScheduler._get_lr` of one cycle in double precision."""
    if t < warmup_t:
        return FIRST + t * (PEAK - FIRST) / warmup_t
    t = t - warmup_t if prefix else t
    return MINIMUM + 0.5 * (PEAK - MINIMUM) * (1 + math.cos(math.pi * t / t_initial))


@pytest.mark.parametrize("by_epoch", [True, False])
def test_warmup_cosine_equals_timm(by_epoch):
    total, warmup = EPOCHS * STEPS, 5 * STEPS
    if by_epoch:
        schedule = WarmupCosine(PEAK, total, warmup, FIRST, MINIMUM, update_every=STEPS)
        expected = [_timm(step // STEPS, EPOCHS, 5, False) for step in range(total)]
    else:
        schedule = WarmupCosine(PEAK, total, warmup, FIRST, MINIMUM, warmup_prefix=True)
        expected = [_timm(step, total - warmup, warmup, True) for step in range(total)]
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    for each in (schedule, again):
        steps = range(0, total, STRIDE)
        found = [float(each(keras.ops.convert_to_tensor(step))) for step in steps]
        np.testing.assert_allclose(found, expected[::STRIDE], rtol=2e-6)
    iterations = keras.Variable(3 * STEPS + 2, dtype="int32", trainable=False)
    assert float(schedule(iterations)) == pytest.approx(expected[3 * STEPS + 2], rel=2e-6)
    assert float(schedule(total + 5)) == pytest.approx(MINIMUM, rel=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"steps": 10, "warmup_steps": 10, "warmup_prefix": True},
        {"steps": 10, "warmup_steps": -1},
        {"steps": 10, "update_every": 0},
        {"steps": 10, "min_learning_rate": -1e-5},
        {"steps": 10, "warmup_learning_rate": math.nan},
        {"steps": 10, "learning_rate": math.inf},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="must be an? .* Received: "):
        WarmupCosine(**{"learning_rate": PEAK, **arguments})
    with pytest.raises(ValueError, match="`steps` must be"):
        LinearWarmup(WarmupCosine(PEAK, 3), -1)


def _decay(name, step, total, warmup):
    """The learning rate after the warmup, divided by the peak."""
    if name == "cosine":
        return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    if name in ("polynomial", "linear"):
        return (1 - step / total) ** {"polynomial": 0.9, "linear": 1}[name]
    return 0.1 ** ((step > total * 8 // 12) + (step > total * 11 // 12))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_equal_their_closed_forms(name):
    total, warmup = 240, 30
    schedule = SCHEDULES[name](PEAK, total, warmup)
    found = [float(schedule(step)) for step in range(0, total, STRIDE)]
    if name == "cosine":
        rising = [step / warmup for step in range(warmup)]
        falling = [_decay(name, step, total, warmup) for step in range(warmup, total)]
        expected = rising + falling
    else:
        expected = [
            min((step + 1) / warmup, 1) * _decay(name, step, total, warmup) for step in range(total)
        ]
    np.testing.assert_allclose(found, PEAK * np.array(expected)[::STRIDE], rtol=2e-5, atol=1e-10)
