"""Learning rates over the steps of a training, each after a linear rise."""

import keras


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
