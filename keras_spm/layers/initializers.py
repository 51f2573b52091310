"""The initialization of all families, which is that of the PVT reference."""

import math
import random

import keras
import numpy as np
from keras import ops

from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class Normal(keras.initializers.Initializer):
    """Normal values with mean zero, drawn by NumPy.

    A seed gives the same values on every backend, and JAX does not compile a program per
    shape, which takes many seconds for a whole network.

    Args:
        std: float, or `None` for sqrt(2 / fan-out).
        seed: int, by default random (see `keras.utils.set_random_seed`).
    """

    def __init__(self, std: float | None = None, seed: int | None = None) -> None:
        self.std = std
        self.seed = random.getrandbits(32) if seed is None else seed

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        std = self.std
        if std is None:
            std = math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
        values = np.random.default_rng(self.seed).normal(0, std, shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype)

    def get_config(self) -> dict:
        return {"std": self.std, "seed": self.seed}


def conv_initializer() -> Normal:
    """Returns a normal with standard deviation sqrt(2 / (kernel area * outputs / groups))."""
    return Normal()


def dense_initializer() -> Normal:
    """Returns a normal with standard deviation 0.02."""
    return Normal(0.02)
