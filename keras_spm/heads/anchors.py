"""Anchors: the boxes that a detector starts from."""

import math

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("keras_spm")
class Anchors(keras.layers.Layer):
    """Boxes of several sizes and shapes around every position of every level.

    Position (row, column) of level Pn is at (row, column) * 2**n pixels of the image. There
    stand, for every aspect ratio, boxes of `scales_per_octave` areas from
    (base_scale * 2**n)**2 on, up to the next level's first, evenly spaced in their logarithm.

    Args:
        base_scale: float, in strides.
        scales_per_octave: int.
        aspect_ratios: floats, height / width.

    Input: {"P3": (batch, height, width, channels), …}. Output: (anchors, 4) float32: left,
    top, right, bottom in pixels; from the finest level on, then row by row, column by
    column, by aspect ratio, by size.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, section 4.
    """

    def __init__(
        self, base_scale=4.0, scales_per_octave=3, aspect_ratios=(0.5, 1.0, 2.0), **kwargs
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})  # Half a digit of 1000 is 0.5 pixels.
        self.base_scale = base_scale
        self.scales_per_octave = scales_per_octave
        self.aspect_ratios = tuple(aspect_ratios)

    @property
    def per_position(self):
        """How many boxes stand around a position."""
        return self.scales_per_octave * len(self.aspect_ratios)

    def call(self, inputs):
        return ops.concatenate(
            [self._of_level(level, ops.shape(inputs[level])[1:3]) for level in sorted(inputs)]
        )

    def _of_level(self, level, size):
        stride = 2 ** int(level.removeprefix("P"))
        rows, columns = (ops.cast(ops.arange(length) * stride, "float32") for length in size)
        rows, columns = ops.meshgrid(rows, columns, indexing="ij")
        centers = ops.reshape(ops.stack([columns, rows, columns, rows], axis=-1), (-1, 1, 4))
        return ops.reshape(centers + self._around_zero(stride), (-1, 4))

    def _around_zero(self, stride):
        count = self.scales_per_octave
        sides = [self.base_scale * stride * 2 ** (number / count) for number in range(count)]
        halves = [
            (side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2)
            for ratio in self.aspect_ratios
            for side in sides
        ]
        return np.array([(-x, -y, x, y) for x, y in halves], "float32")

    def compute_output_shape(self, input_shape):
        return (anchor_count(input_shape, self.per_position), 4)

    def get_config(self):
        config = {
            "base_scale": self.base_scale,
            "scales_per_octave": self.scales_per_octave,
            "aspect_ratios": self.aspect_ratios,
        }
        return {**super().get_config(), **config}


def anchor_count(shapes, per_position):
    """Returns how many anchors stand on {level: shape}; None where a size is unknown."""
    sizes = [shape[1:3] for shape in shapes.values()]
    if any(None in size for size in sizes):
        return None
    return sum(height * width for height, width in sizes) * per_position
