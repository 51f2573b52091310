"""Learning rates over the steps of a training, each after a linear rise."""

import math

import keras


@keras.saving.register_keras_serializable("keras_spm")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly, then falls by a cosine to a floor; constant for `hold` steps at a time.

    With t the step rounded down to a multiple of `hold`, the rate is
    `start + (peak - start) t / warmup` while t < warmup, and then
    `floor + (peak - floor) (1 + cos(π t / steps)) / 2`. So the cosine is in the midst of
    its fall when the rise ends, unless it `waits` for it: then t and `steps` are counted
    from the end of the rise.

    Args:
        peak: float.
        steps: int, of the whole training.
        warmup: int, steps of the rise.
        start: float, where the rise begins.
        floor: float, where the cosine ends.
        hold: int, steps of an epoch for a rate that changes once an epoch, or 1.
        waits: bool.

    Reference:
        timm's `CosineLRScheduler`: by epochs for PVT, by steps and with `warmup_prefix` for
        Swin. PVT's code sets the rate of each epoch after it, with its number, so that there
        every rate comes an epoch later.
    """

    def __init__(self, peak, steps, warmup=0, start=0.0, floor=0.0, hold=1, waits=False):
        super().__init__()
        self.peak = peak
        self.steps = steps
        self.warmup = warmup
        self.start = start
        self.floor = floor
        self.hold = hold
        self.waits = waits

    def __call__(self, step):
        # Divided as ints: a quotient of floats could round up to the next epoch.
        held = keras.ops.cast(step // self.hold * self.hold, "float32")
        rising = self.start + (self.peak - self.start) * (held / max(self.warmup, 1))
        passed = self.warmup if self.waits else 0
        share = keras.ops.minimum((held - passed) / (self.steps - passed), 1.0)
        falling = self.floor + (self.peak - self.floor) * (
            0.5 * (1.0 + keras.ops.cos(math.pi * share))
        )
        return keras.ops.where(held < self.warmup, rising, falling)

    def get_config(self):
        names = ("peak", "steps", "warmup", "start", "floor", "hold", "waits")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("keras_spm")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to where another schedule is by then, and goes on with that.

    Args:
        schedule: the `keras.optimizers.schedules` schedule.
        steps: int, of the rise. The first step has 1 / steps of the full rate.
    """

    def __init__(self, schedule, steps):
        super().__init__()
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step):
        share = (keras.ops.cast(step, "float32") + 1) / max(self.steps, 1)
        return self.schedule(step) * keras.ops.minimum(share, 1.0)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


def _cosine(peak, steps, warmup):
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=peak,
        warmup_steps=warmup,
        decay_steps=steps - warmup,
    )


def _polynomial(peak, steps, warmup):
    decay = keras.optimizers.schedules.PolynomialDecay(
        peak, steps, end_learning_rate=0.0, power=0.9
    )
    return LinearWarmup(decay, warmup)


def _steps(peak, steps, warmup):
    boundaries = [round(steps * 8 / 12), round(steps * 11 / 12)]
    rates = [peak, peak / 10, peak / 100]
    decay = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return LinearWarmup(decay, warmup)


# {name: function of the peak, the steps in all and those of the rise}
SCHEDULES = {"cosine": _cosine, "polynomial": _polynomial, "steps": _steps}
