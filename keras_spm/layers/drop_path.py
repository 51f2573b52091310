"""Stochastic depth."""

from typing import Any

import keras
from keras import ops

from keras_spm.types import Shape
from keras_spm.types import Tensor


@keras.saving.register_keras_serializable("keras_spm")
class DropPath(keras.layers.Layer):
    """Drops the residual branch of random examples in training.

    Each example is set to zero with probability `rate`. The others are divided by
    `1 - rate`, which keeps the expected value. At inference the layer is the identity.

    Args:
        rate: float in [0, 1).
        seed: int, or `None` for a random seed.

    Raises:
        ValueError: if `rate` is out of range.

    Reference:
        Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={rate}")
        self.rate = rate
        self.seed = seed
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        uniform = keras.random.uniform(shape, seed=self.seed_generator)
        kept = ops.cast(uniform >= self.rate, inputs.dtype)
        return inputs * kept / (1 - self.rate)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
