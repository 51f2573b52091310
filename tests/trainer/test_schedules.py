"""Learning rates step by step, against the formulas of the official code's scheduler."""

import math

import keras
import numpy as np
import pytest

from keras_spm.optimizers import WarmupCosine
from keras_spm.trainer.schedules import SCHEDULES

EPOCHS, STEPS = 30, 7
PEAK, START, FLOOR = 1e-3, 1e-6, 1e-5


def _timm(t, t_initial, warmup_t, prefix):
    """`CosineLRScheduler._get_lr` of one cycle, in double precision."""
    if t < warmup_t:
        return START + t * (PEAK - START) / warmup_t
    t = t - warmup_t if prefix else t
    return FLOOR + 0.5 * (PEAK - FLOOR) * (1 + math.cos(math.pi * t / t_initial))


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_whole_run_follows_timm(by_epoch):
    total, warmup = EPOCHS * STEPS, 5 * STEPS
    if by_epoch:
        schedule = WarmupCosine(PEAK, total, warmup, START, FLOOR, update_every=STEPS)
        expected = [_timm(step // STEPS, EPOCHS, 5, False) for step in range(total)]
    else:
        schedule = WarmupCosine(PEAK, total, warmup, START, FLOOR, warmup_prefix=True)
        expected = [_timm(step, total - warmup, warmup, True) for step in range(total)]
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    for each in (schedule, again):
        found = [float(each(keras.ops.convert_to_tensor(step))) for step in range(total)]
        np.testing.assert_allclose(found, expected, rtol=2e-6)
    iterations = keras.Variable(3 * STEPS + 2, dtype="int32", trainable=False)
    assert float(schedule(iterations)) == pytest.approx(expected[3 * STEPS + 2], rel=2e-6)
    assert float(schedule(total + 5)) == pytest.approx(FLOOR, rel=1e-6)


def _fallen(name, step, total, warmup):
    """The closed forms after the rise, in units of the peak."""
    if name == "cosine":
        return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    if name == "polynomial":
        return (1 - step / total) ** 0.9
    return 0.1 ** ((step > total * 8 // 12) + (step > total * 11 // 12))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_whole_run_follows_its_closed_form(name):
    total, warmup = 240, 30
    found = [float(SCHEDULES[name](PEAK, total, warmup)(step)) for step in range(total)]
    if name == "cosine":
        rise = [step / warmup for step in range(warmup)]
        fall = [_fallen(name, step, total, warmup) for step in range(warmup, total)]
        expected = rise + fall
    else:
        expected = [
            min((step + 1) / warmup, 1) * _fallen(name, step, total, warmup)
            for step in range(total)
        ]
    np.testing.assert_allclose(found, PEAK * np.array(expected), rtol=2e-5, atol=1e-10)
