"""Anchor boxes of a one-stage detector."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_each, check_integer, check_number
from keras_spm.heads.feature_pyramid import level_number
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class Anchors(keras.layers.Layer):
    """Anchor boxes of several scales and aspect ratios at every position of every level.

    Position (row, column) of level Pn is centered at (row, column) * 2**n pixels. It has
    one anchor per aspect ratio and scale; the areas are (base_scale * 2**n)**2 times
    4**(k / scales_per_octave) for k from 0 to scales_per_octave - 1.

    Args:
        base_scale: float, side of the smallest square anchor in strides.
        scales_per_octave: int.
        aspect_ratios: floats, height / width.

    Input: {"P3": (batch, height, width, channels), …}. Output: {"P3": (anchors, 4), …},
    float32, xyxy in pixels; row by row, column by column, by aspect ratio, by scale.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, section 4.
    """

    def __init__(
        self,
        base_scale: float = 4.0,
        scales_per_octave: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        **kwargs: Any,
    ) -> None:
        # In half precision, coordinates around 1000 are rounded by half a pixel.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.base_scale = check_number("base_scale", base_scale, allow_minimum=False)
        self.scales_per_octave = check_integer("scales_per_octave", scales_per_octave)
        self.aspect_ratios = check_each(
            "aspect_ratios", aspect_ratios, check_number, allow_minimum=False
        )

    @property
    def anchors_per_position(self) -> int:
        """Number of anchors at each position of a map."""
        return self.scales_per_octave * len(self.aspect_ratios)

    def call(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {level: self._level_anchors(level, maps) for level, maps in inputs.items()}

    def _level_anchors(self, level, maps):
        stride = 2 ** level_number(level)
        lengths = ops.shape(maps)[1:3]
        rows, columns = (
            ops.cast(ops.arange(length, dtype="int32") * stride, "float32") for length in lengths
        )
        rows, columns = ops.meshgrid(rows, columns, indexing="ij")
        centers = ops.reshape(ops.stack([columns, rows, columns, rows], axis=-1), (-1, 1, 4))
        return ops.reshape(centers + self._base_anchors(stride), (-1, 4))

    def _base_anchors(self, stride):
        """Returns (anchors_per_position, 4), the anchors centered at 0."""
        count = self.scales_per_octave
        sides = [self.base_scale * stride * 2 ** (index / count) for index in range(count)]
        halves = [
            (side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2)
            for ratio in self.aspect_ratios
            for side in sides
        ]
        return ops.convert_to_tensor([(-x, -y, x, y) for x, y in halves], "float32")

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> dict[str, Shape]:
        count = self.anchors_per_position
        return {level: (num_anchors(shape, count), 4) for level, shape in input_shape.items()}

    def get_config(self) -> dict[str, Any]:
        config = {
            "base_scale": self.base_scale,
            "scales_per_octave": self.scales_per_octave,
            "aspect_ratios": self.aspect_ratios,
        }
        return {**super().get_config(), **config}


def num_anchors(shape: Shape, anchors_per_position: int) -> int | None:
    """Returns the number of anchors of a level, `None` for an unknown map size."""
    _, height, width, _ = shape
    return None if None in (height, width) else height * width * anchors_per_position
