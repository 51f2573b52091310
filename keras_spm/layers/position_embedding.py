"""Learned position embeddings for maps of any size."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_each, check_integer
from keras_spm.layers.initializers import dense_initializer
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned embedding to each position.

    For maps of another size the embeddings are resized bilinearly (half-pixel centers, no
    antialiasing), by two small matrices, which work for unknown sizes on every backend.

    Args:
        grid: (rows, columns) of the embeddings.

    Input and output: (batch, height, width, channels).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.2.
    """

    def __init__(self, grid: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = check_each("grid", grid, check_integer, 2)

    def build(self, input_shape: Shape) -> None:
        self.embedding = self.add_weight(
            name="embedding", shape=(*self.grid, input_shape[-1]), initializer=dense_initializer()
        )
        # Maps of one channel would be broadcast.
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})

    def call(self, inputs: Tensor) -> Tensor:
        embedding = ops.convert_to_tensor(self.embedding)
        sizes = tuple(inputs.shape[1:3])
        # A symbolic size must not be compared: it would be fixed.
        is_known = all(isinstance(size, int) for size in sizes)
        if not is_known or sizes != self.grid:
            _, height, width, _ = ops.shape(inputs)
            rows, columns = (
                _interpolation_matrix(length, size, inputs.dtype)
                for length, size in zip((height, width), self.grid, strict=True)
            )
            embedding = ops.einsum("hr,rwc->hwc", rows, embedding)
            embedding = ops.einsum("wr,hrc->hwc", columns, embedding)
        return inputs + embedding

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid}


def _interpolation_matrix(length: int | Tensor, size: int, dtype: str) -> Tensor:
    """Returns the (length, size) matrix that interpolates `size` values to `length`."""
    scale = size / backend.scalar(length, "float32")
    centers = (ops.arange(length, dtype="float32") + 0.5) * scale - 0.5
    centers = ops.expand_dims(ops.clip(centers, 0, size - 1), 1)
    distances = ops.abs(centers - ops.arange(size, dtype="float32"))
    return ops.cast(ops.relu(1 - distances), dtype)
