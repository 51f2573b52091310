"""The pre-norm transformer block of the hierarchical families, and stochastic depth."""

from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_bool, check_epsilon, check_rate
from keras_spm.layers.composite import CompositeLayer, build_once, check_layer
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class DropPath(keras.layers.Layer):
    """Drops the residual branch of random examples in training.

    Each example is set to zero with probability `rate`. The others are divided by
    `1 - rate`, which keeps the expected value. At inference the layer is the identity.

    Args:
        rate: float in [0, 1).
        seed: int, or `None` for a random seed.

    Reference:
        Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.seed = seed
        if self.rate > 0:
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

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_spm")
class TransformerBlock(CompositeLayer):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, both branches with drop path.

    Args:
        attention, mlp: layers that keep the map's shape.
        drop_path_rate: float in [0, 1).
        norm_epsilon: float, epsilon of both layer normalizations.
        gradient_checkpointing: bool, whether training recomputes the branches in the
            backward pass, which takes less memory and more time.

    Input and output: (batch, height, width, channels).
    """

    config_arguments = ("drop_path_rate", "norm_epsilon", "gradient_checkpointing")
    child_arguments = ("attention", "mlp")

    def __init__(
        self,
        attention: keras.layers.Layer,
        mlp: keras.layers.Layer,
        drop_path_rate: float = 0.0,
        norm_epsilon: float = 1e-6,
        gradient_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.attention = check_layer("attention", attention)
        self.mlp = check_layer("mlp", mlp)
        self.drop_path_rate = check_rate("drop_path_rate", drop_path_rate)
        self.norm_epsilon = check_epsilon("norm_epsilon", norm_epsilon)
        self.gradient_checkpointing = check_bool("gradient_checkpointing", gradient_checkpointing)
        self.attention_norm, self.mlp_norm = (
            LayerNormalization(epsilon=norm_epsilon, dtype=self.dtype_policy, name=name)
            for name in ("attention_norm", "mlp_norm")
        )
        self.drop_path = DropPath(drop_path_rate, dtype=self.dtype_policy, name="drop_path")

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        branches = (self.attention_norm, self.attention, self.mlp_norm, self.mlp)
        for layer in (*branches, self.drop_path):
            build_once(layer, input_shape)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        for norm, layer in ((self.attention_norm, self.attention), (self.mlp_norm, self.mlp)):
            branch = self._branch(norm, layer, training)(inputs)
            inputs = inputs + self.drop_path(branch, training=training)
        return inputs

    def _branch(self, norm, layer, training):
        def branch(maps):
            return layer(norm(maps))

        # Drop path is not recomputed: it would draw other random numbers.
        return keras.remat(branch) if training and self.gradient_checkpointing else branch

    def macs(self, input_shape: Shape) -> int:
        return macs(self.attention, input_shape) + macs(self.mlp, input_shape)
