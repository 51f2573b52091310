"""Padding and resizing of maps."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class ResizeLike(keras.layers.Layer):
    """Resizes maps bilinearly to the size of images (half-pixel centers, no antialiasing).

    Args:
        data_format: of the images. The maps are channels_last.

    Input: [maps (batch, rows, columns, channels), images]. Output: (batch, height, width,
    channels) with the height and width of the images.
    """

    def __init__(self, data_format: str = "channels_last", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = data_format

    def call(self, inputs: list[Tensor]) -> Tensor:
        maps, images = inputs
        return backend.resize_bilinear(maps, self._sizes(ops.shape(images)))

    def _sizes(self, shape: Shape) -> Shape:
        return shape[2:4] if self.data_format == "channels_first" else shape[1:3]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        maps, images = input_shape
        return (maps[0], *self._sizes(images), maps[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "data_format": self.data_format}


def ceil_divide(size: int | Tensor | None, divisor: int) -> int | Tensor | None:
    """Returns ceil(size / divisor) of a static size, an unknown size (None) or a tensor."""
    return None if size is None else (size - 1) // divisor + 1


def is_multiple(maps: Tensor, multiple: int) -> bool:
    """Returns whether height and width of (batch, height, width, channels) are known multiples."""
    return all(isinstance(size, int) and size % multiple == 0 for size in maps.shape[1:3])


def pad_to_multiple(maps: Tensor, multiple: int) -> Tensor:
    """Pads (batch, height, width, channels) with zeros at the bottom and right to multiples."""
    if is_multiple(maps, multiple):
        return maps
    # Without a remainder: compilers of symbolic sizes see that the padded size is a multiple.
    rows, columns = (
        (0, ceil_divide(size, multiple) * multiple - size) for size in ops.shape(maps)[1:3]
    )
    return backend.pad(maps, ((0, 0), rows, columns, (0, 0)))
