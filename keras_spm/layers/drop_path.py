"""Stochastic depth."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_spm")
class DropPath(keras.layers.Layer):
    """Drops a residual branch for whole examples while training.

    Each example is zeroed with probability `rate`; the others are divided by
    `1 - rate`, so that the expectation stays. In evaluation it does nothing.

    Args:
        rate: float in [0, 1).
        seed: optional int.

    Reference:
        Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={rate}")
        self.rate = rate
        self.seed = seed
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        uniform = keras.random.uniform(shape, seed=self.seed_generator)
        kept = ops.cast(uniform >= self.rate, inputs.dtype)
        return inputs * kept / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        return 0

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
