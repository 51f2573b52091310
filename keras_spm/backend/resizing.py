"""Bilinear resizing to sizes that may be unknown until the graph runs."""

import keras
from keras import ops


def resize_bilinear(maps, size):
    """Resizes maps with half-pixel centers and without antialiasing.

    Args:
        maps: (batch, rows, columns, channels).
        size: (height, width), ints or scalar tensors.

    Returns:
        (batch, height, width, channels), in the dtype of the maps.
    """
    if keras.config.backend() == "tensorflow":
        # Keras's own function asks whether the size is positive, which a graph cannot answer.
        import tensorflow as tf

        return tf.cast(tf.image.resize(maps, size), maps.dtype)
    return ops.image.resize(maps, size, interpolation="bilinear", data_format="channels_last")
