"""Resizing to the size of another map."""

from typing import Any

import keras
from keras import ops

from keras_spm.backend.resizing import resize_bilinear
from keras_spm.types import Shape
from keras_spm.types import Tensor


@keras.saving.register_keras_serializable("keras_spm")
class ResizeLike(keras.layers.Layer):
    """Resizes maps bilinearly to the size of images (half-pixel centers, no antialiasing).

    Args:
        data_format: of the images. The maps are channels_last.

    Input: [maps (batch, rows, columns, channels), images]. Output: (batch, height, width,
    channels) with the height and width of the images.
    """

    def __init__(self, data_format: str = "channels_last", **kwargs) -> None:
        super().__init__(**kwargs)
        self.data_format = data_format

    def call(self, inputs: list[Tensor]) -> Tensor:
        maps, images = inputs
        return resize_bilinear(maps, self._sizes(ops.shape(images)))

    def _sizes(self, shape: Shape) -> Shape:
        return shape[2:4] if self.data_format == "channels_first" else shape[1:3]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        maps, images = input_shape
        return (maps[0], *self._sizes(images), maps[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}
