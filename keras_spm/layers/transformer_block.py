"""The pre-norm transformer block of the hierarchical families."""

from collections.abc import Callable
from typing import Any

import keras

from keras_spm.layers.composite import CompositeLayer
from keras_spm.layers.composite import build_once
from keras_spm.layers.drop_path import DropPath
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs
from keras_spm.types import Shape
from keras_spm.types import Tensor


@keras.saving.register_keras_serializable("keras_spm")
class TransformerBlock(CompositeLayer):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, both branches with drop path.

    Args:
        attention: layer that keeps the map's shape.
        mlp: layer that keeps the map's shape.
        drop_path_rate: float in [0, 1).
        norm_epsilon: float, epsilon of both layer normalizations.
        gradient_checkpointing: bool, whether training recomputes the branches in the
            backward pass instead of storing their intermediate results. This takes less
            memory and more time.

    Input and output: (batch, height, width, channels).
    """

    child_arguments = ("attention", "mlp")

    def __init__(
        self,
        attention: keras.layers.Layer,
        mlp: keras.layers.Layer,
        drop_path_rate: float = 0.0,
        norm_epsilon: float = 1e-6,
        gradient_checkpointing: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.attention = attention
        self.mlp = mlp
        self.drop_path_rate = drop_path_rate
        self.norm_epsilon = norm_epsilon
        self.gradient_checkpointing = gradient_checkpointing
        self.attention_norm, self.mlp_norm = (
            LayerNormalization(epsilon=norm_epsilon, dtype=self.dtype_policy, name=name)
            for name in ("attention_norm", "mlp_norm")
        )
        self.drop_path = DropPath(drop_path_rate, dtype=self.dtype_policy, name="drop_path")

    def build(self, input_shape: Shape) -> None:
        for layer in (
            *(self.attention_norm, self.attention),
            *(self.mlp_norm, self.mlp),
            self.drop_path,
        ):
            build_once(layer, input_shape)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        maps = inputs
        for norm, layer in ((self.attention_norm, self.attention), (self.mlp_norm, self.mlp)):
            branch = self._branch(norm, layer, training)(maps)
            maps = maps + self.drop_path(branch, training=training)
        return maps

    def _branch(
        self, norm: keras.layers.Layer, layer: keras.layers.Layer, training: bool
    ) -> Callable[[Tensor], Tensor]:
        def branch(maps):
            return layer(norm(maps))

        # Drop path is not recomputed: it would draw other random numbers.
        return keras.remat(branch) if training and self.gradient_checkpointing else branch

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def macs(self, input_shape: Shape) -> int:
        return macs(self.attention, input_shape) + macs(self.mlp, input_shape)

    def get_config(self) -> dict[str, Any]:
        config = {
            "drop_path_rate": self.drop_path_rate,
            "norm_epsilon": self.norm_epsilon,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
        return {**super().get_config(), **config}
