"""The initialization that every family here shares (that of the PVT reference)."""

import math
import random

import keras
import numpy as np
from keras import ops


def conv_initializer():
    """Normal with standard deviation sqrt(2 / (kernel area * output channels / groups)).

    The fan-out of a depthwise kernel (k, k, channels, 1) is k * k, which is that formula
    for as many groups as channels.
    """
    return Normal()


def dense_initializer():
    """Normal with standard deviation 0.02."""
    return Normal(0.02)


@keras.saving.register_keras_serializable("keras_spm")
class Normal(keras.initializers.Initializer):
    """Normal values around zero, drawn by NumPy.

    So a seed gives the same values on every backend, and JAX does not compile a program
    for every shape, which takes many seconds for a whole network.

    Args:
        std: float, or `None` for sqrt(2 / fan-out).
        seed: int; by default drawn from Python's generator, which
            `keras.utils.set_random_seed` sets.
    """

    def __init__(self, std=None, seed=None):
        self.std = std
        self.seed = random.getrandbits(32) if seed is None else seed

    def __call__(self, shape, dtype=None):
        deviation = self.std
        if deviation is None:
            deviation = math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
        values = np.random.default_rng(self.seed).normal(0, deviation, shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype)

    def get_config(self):
        return {"std": self.std, "seed": self.seed}
