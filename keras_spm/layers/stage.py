"""One stage of a hierarchical vision transformer."""

import keras

from keras_spm.layers.multiply_adds import multiply_adds


@keras.saving.register_keras_serializable("keras_spm")
class Stage(keras.layers.Layer):
    """Merging, then blocks, then normalisation; the first and last may be absent.

    Args:
        blocks: layers that keep a map's shape.
        merging: optional layer that halves the map and widens its channels.
        norm: optional layer applied at the end.

    Input: (batch, height, width, channels). Output: what the merging makes of that
    shape.
    """

    def __init__(self, blocks, merging=None, norm=None, **kwargs):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        self.merging = merging
        self.norm = norm

    @property
    def _parts(self):
        parts = [self.merging, *self.blocks, self.norm]
        return [part for part in parts if part is not None]

    def build(self, input_shape):
        for part in self._parts:
            part.build(input_shape)
            input_shape = part.compute_output_shape(input_shape)

    def call(self, inputs, training=False):
        # Keras hands `training` on to the parts that take it.
        for part in self._parts:
            inputs = part(inputs)
        return inputs

    def compute_output_shape(self, input_shape):
        return (
            input_shape if self.merging is None else self.merging.compute_output_shape(input_shape)
        )

    def multiply_adds(self, input_shape):
        total = 0
        for part in self._parts:
            total += multiply_adds(part, input_shape)
            input_shape = part.compute_output_shape(input_shape)
        return total

    def get_config(self):
        config = {
            "blocks": [keras.saving.serialize_keras_object(block) for block in self.blocks],
            "merging": keras.saving.serialize_keras_object(self.merging),
            "norm": keras.saving.serialize_keras_object(self.norm),
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        layers = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("blocks", "merging", "norm")
        }
        return cls(**{**config, **layers})
