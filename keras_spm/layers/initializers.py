"""The initialization of all families, which is that of the PVT reference, of heads, and of LoRA."""

import math
import random

import keras
import numpy as np
from keras import ops

from keras_spm.types import Shape, Tensor


class _HostInitializer(keras.initializers.Initializer):
    """Values drawn by NumPy.

    A seed gives the same values on every backend, and JAX does not compile a program per
    shape, which takes many seconds for a whole network.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = random.getrandbits(32) if seed is None else seed

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        values = self._draw(np.random.default_rng(self.seed), shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype)

    def get_config(self) -> dict:
        return {"seed": self.seed}


@keras.saving.register_keras_serializable("keras_spm")
class Normal(_HostInitializer):
    """Normal values with mean zero.

    Args:
        std: float, or `None` for sqrt(2 / fan-out).
        seed: int, by default random (see `keras.utils.set_random_seed`).
    """

    def __init__(self, std: float | None = None, seed: int | None = None) -> None:
        super().__init__(seed)
        self.std = std

    def _draw(self, generator, shape):
        std = self.std
        if std is None:
            std = math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
        return generator.normal(0, std, shape)

    def get_config(self) -> dict:
        return {"std": self.std, **super().get_config()}


@keras.saving.register_keras_serializable("keras_spm")
class GlorotUniform(_HostInitializer):
    """Uniform values within ± sqrt(6 / (fan-in + fan-out)), as Keras's of the same name.

    Args:
        seed: int, by default random (see `keras.utils.set_random_seed`).
    """

    def _draw(self, generator, shape):
        limit = math.sqrt(6 / (math.prod(shape[:-2]) * sum(shape[-2:])))
        return generator.uniform(-limit, limit, shape)


@keras.saving.register_keras_serializable("keras_spm")
class HeUniform(_HostInitializer):
    """Uniform values within ± sqrt(6 / fan-in), as Keras's of the same name.

    Args:
        seed: int, by default random (see `keras.utils.set_random_seed`).
    """

    def _draw(self, generator, shape):
        limit = math.sqrt(6 / math.prod(shape[:-1]))
        return generator.uniform(-limit, limit, shape)


def conv_initializer() -> Normal:
    """Returns a normal with standard deviation sqrt(2 / (kernel area * outputs / groups))."""
    return Normal()


def dense_initializer() -> Normal:
    """Returns a normal with standard deviation 0.02."""
    return Normal(0.02)
