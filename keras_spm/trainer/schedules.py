"""Learning rates over the steps of a training, each after a linear rise."""

import keras

from keras_spm.optimizers import LinearWarmup


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
