"""Resizing to a size that another map has."""

import keras
from keras import ops

from keras_spm.backend.resizing import resize_bilinear


@keras.saving.register_keras_serializable("keras_spm")
class ResizeLike(keras.layers.Layer):
    """Resizes maps bilinearly to the size of images (half-pixel centers, no antialiasing).

    Args:
        data_format: where the images' channels are; the maps' come last.

    Input: [maps (batch, rows, columns, channels), images]. Output: (batch, height, width,
    channels), height and width those of the images.
    """

    def __init__(self, data_format="channels_last", **kwargs):
        super().__init__(**kwargs)
        self.data_format = data_format

    def call(self, inputs):
        maps, images = inputs
        return resize_bilinear(maps, self._sizes(ops.shape(images)))

    def _sizes(self, shape):
        return shape[2:4] if self.data_format == "channels_first" else shape[1:3]

    def compute_output_shape(self, input_shape):
        maps, images = input_shape
        return (maps[0], *self._sizes(images), maps[-1])

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}
