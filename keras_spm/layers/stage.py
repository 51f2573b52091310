"""The stages of a hierarchical vision transformer."""

import keras
from keras import ops

from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.macs import macs

_PARTS = ("merging", "position_embedding", "norm")


@keras.saving.register_keras_serializable("keras_spm")
class Stage(keras.layers.Layer):
    """Merging, position embedding, blocks, normalization; all but the blocks optional.

    Args:
        blocks: layers that keep a map's shape.
        merging: optional layer that halves the map and widens its channels.
        norm: optional layer applied at the end.
        position_embedding: optional layer that keeps a map's shape, before the blocks.

    Input: (batch, height, width, channels). Output: what the merging makes of that
    shape.
    """

    def __init__(self, blocks, merging=None, norm=None, position_embedding=None, **kwargs):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        self.merging = merging
        self.norm = norm
        self.position_embedding = position_embedding

    @property
    def _before_blocks(self):
        parts = (self.merging, self.position_embedding)
        return [part for part in parts if part is not None]

    @property
    def _from_blocks_on(self):
        return self.blocks if self.norm is None else [*self.blocks, self.norm]

    def build(self, input_shape):
        for part in self._before_blocks:
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)
        for part in self._from_blocks_on:
            part.build(input_shape)

    def call(self, inputs, training=False):
        # Keras hands `training` on to the parts that take it.
        for part in (*self._before_blocks, *self._from_blocks_on):
            inputs = part(inputs)
        return inputs

    def compute_output_shape(self, input_shape):
        return (
            input_shape if self.merging is None else self.merging.compute_output_shape(input_shape)
        )

    def macs(self, input_shape):
        total = 0 if self.merging is None else macs(self.merging, input_shape)
        tokens_shape = self._tokens_shape(Stage.compute_output_shape(self, input_shape))
        return total + sum(macs(block, tokens_shape) for block in self.blocks)

    def _tokens_shape(self, maps_shape):
        """The shape of what the blocks work on."""
        return maps_shape

    def get_config(self):
        config = {
            "blocks": [keras.saving.serialize_keras_object(block) for block in self.blocks],
            **{part: keras.saving.serialize_keras_object(getattr(self, part)) for part in _PARTS},
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        layers = {
            key: keras.saving.deserialize_keras_object(config[key]) for key in ("blocks", *_PARTS)
        }
        return cls(**{**config, **layers})


@keras.saving.register_keras_serializable("keras_spm")
class ClassTokenStage(Stage):
    """A stage in whose blocks a learned class token stands before the map's positions.

    Takes the arguments of `Stage`; the blocks must not ask how positions lie to each
    other (no spatial reduction, no convolution), for they get a column of tokens.

    Input: (batch, height, width, channels). Output: the map without the token, as
    `Stage` gives it, and the token, (batch, channels).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.4.
    """

    def build(self, input_shape):
        channels = Stage.compute_output_shape(self, input_shape)[-1]
        for name in ("class_token", "class_position"):
            weight = self.add_weight(name=name, shape=(channels,), initializer=dense_initializer())
            setattr(self, name, weight)
        super().build(input_shape)

    def call(self, inputs, training=False):
        maps = inputs
        for part in self._before_blocks:
            maps = part(maps)
        batch, height, width, channels = ops.shape(maps)
        class_token = ops.convert_to_tensor(self.class_token) + self.class_position
        class_tokens = ops.broadcast_to(class_token, (batch, 1, 1, channels))
        positions = ops.reshape(maps, (batch, height * width, 1, channels))
        tokens = ops.concatenate([class_tokens, positions], axis=1)
        for part in self._from_blocks_on:
            tokens = part(tokens)
        return ops.reshape(tokens[:, 1:], (batch, height, width, channels)), tokens[:, 0, 0]

    def _tokens_shape(self, maps_shape):
        batch, height, width, channels = maps_shape
        return (batch, 1 + height * width, 1, channels)

    def compute_output_shape(self, input_shape):
        maps_shape = super().compute_output_shape(input_shape)
        return maps_shape, (maps_shape[0], maps_shape[-1])
