"""The pre-norm transformer block of the hierarchical families, on maps."""

import keras

from keras_spm.layers.drop_path import DropPath
from keras_spm.layers.layer_normalization import LayerNormalization
from keras_spm.layers.macs import macs


@keras.saving.register_keras_serializable("keras_spm")
class TransformerBlock(keras.layers.Layer):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, each branch with drop path.

    Args:
        attention: layer that keeps a map's shape.
        mlp: layer that keeps a map's shape.
        drop_path_rate: float in [0, 1).
        norm_epsilon: float, epsilon of both layer normalizations.
        gradient_checkpointing: bool, whether training keeps of each branch its input alone
            and computes the branch again for the gradient: less memory, more time.

    Input and output: (batch, height, width, channels).
    """

    def __init__(
        self,
        attention,
        mlp,
        drop_path_rate=0.0,
        norm_epsilon=1e-6,
        gradient_checkpointing=False,
        **kwargs,
    ):
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

    def build(self, input_shape):
        parts = (self.attention_norm, self.attention, self.mlp_norm, self.mlp, self.drop_path)
        for layer in parts:
            layer.build(input_shape)

    def call(self, inputs, training=False):
        maps = inputs
        for norm, layer in ((self.attention_norm, self.attention), (self.mlp_norm, self.mlp)):
            branch = self._branch(norm, layer, training)(maps)
            maps = maps + self.drop_path(branch, training=training)
        return maps

    def _branch(self, norm, layer, training):
        def branch(maps):
            return layer(norm(maps))

        # Drop path stays outside: drawn again for the gradient, it would be another one.
        return keras.remat(branch) if training and self.gradient_checkpointing else branch

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        return macs(self.attention, input_shape) + macs(self.mlp, input_shape)

    def get_config(self):
        config = {
            "attention": keras.saving.serialize_keras_object(self.attention),
            "mlp": keras.saving.serialize_keras_object(self.mlp),
            "drop_path_rate": self.drop_path_rate,
            "norm_epsilon": self.norm_epsilon,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        layers = {
            key: keras.saving.deserialize_keras_object(config[key]) for key in ("attention", "mlp")
        }
        return cls(**{**config, **layers})
