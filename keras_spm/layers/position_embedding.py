"""Learned position embeddings for maps of any size."""

import keras
from keras import ops

from keras_spm.layers.initializers import dense_initializer


@keras.saving.register_keras_serializable("keras_spm")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned embedding to each position.

    Where the map has another size than the grid, the embeddings are resized to it
    bilinearly (half-pixel centers, no antialiasing). That is two small matrices here:
    they serve sizes that are not known beforehand on every backend.

    Args:
        grid: (rows, columns) of the embeddings.

    Input and output: (batch, height, width, channels).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.2.
    """

    def __init__(self, grid, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding",
            shape=(*self.grid, input_shape[-1]),
            initializer=dense_initializer(),
        )

    def call(self, inputs):
        embedding = ops.convert_to_tensor(self.embedding)
        if tuple(inputs.shape[1:3]) != self.grid:
            _, height, width, _ = ops.shape(inputs)
            rows, columns = self.grid
            embedding = ops.einsum("hr,rwc->hwc", _weights(height, rows, inputs.dtype), embedding)
            embedding = ops.einsum("wr,hrc->hwc", _weights(width, columns, inputs.dtype), embedding)
        return inputs + embedding

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        return 0

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


def _weights(length, size, dtype):
    """The (length, size) matrix that interpolates `size` values at `length` positions."""
    scale = size / ops.cast(length, "float32")
    centers = (ops.arange(length, dtype="float32") + 0.5) * scale - 0.5
    centers = ops.expand_dims(ops.clip(centers, 0, size - 1), 1)
    distances = ops.abs(centers - ops.arange(size, dtype="float32"))
    return ops.cast(ops.relu(1 - distances), dtype)
