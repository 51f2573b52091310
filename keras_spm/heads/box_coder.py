"""Encoding of boxes as offsets from anchors or proposals."""

import math
from collections.abc import Sequence

from keras import ops
from keras.utils import bounding_boxes

from keras_spm import backend
from keras_spm.arguments import check_each, check_number
from keras_spm.types import Tensor

_MAX_LOG_SCALE = math.log(1000 / 16)  # Clamp on dw and dh.
_DELTAS = "center_xywh"


def check_boxes(boxes: Tensor, labels: Tensor) -> None:
    """Raises ValueError unless boxes are (batch, boxes, 4) and labels (batch, boxes)."""
    shapes = tuple(boxes.shape), tuple(labels.shape)
    if len(shapes[0]) != 3 or shapes[0][-1] != 4 or len(shapes[1]) != 2:
        raise ValueError(
            "`boxes` must be (batch, boxes, 4) and `labels` (batch, boxes). "
            f"Received: shapes {shapes[0]} and {shapes[1]}"
        )


class BoxCoder:
    """Converts between boxes and deltas (dx, dy, dw, dh) relative to reference boxes.

    dx and dy are the offset of the center in units of the reference box's width and
    height; dw and dh are the logarithms of the ratios of width and height. All of them are
    divided by `weights`.

    Args:
        weights: four floats above 0; mmdetection's `target_stds`.

    Reference:
        Girshick et al., Rich feature hierarchies, arXiv 1311.2524, appendix C.
    """

    def __init__(self, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        self.weights = check_each("weights", weights, check_number, 4, allow_minimum=False)

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """Returns the deltas, (batch, boxes, 4); finite also for boxes without area.

        Args:
            references: (boxes, 4) or (batch, boxes, 4), xyxy.
            boxes: (batch, boxes, 4), xyxy.
        """
        deltas = bounding_boxes.encode_box_to_deltas(references, boxes, "xyxy", "xyxy", _DELTAS)
        return deltas / ops.convert_to_tensor(self.weights, deltas.dtype)

    def decode(self, references: Tensor, deltas: Tensor) -> Tensor:
        """Returns the boxes, xyxy; the inverse of `encode`.

        A side grows to at most 62.5 times that of its reference box.
        """
        deltas = deltas * ops.convert_to_tensor(self.weights, deltas.dtype)
        sizes = ops.minimum(deltas[..., 2:], _MAX_LOG_SCALE)
        deltas = ops.concatenate([deltas[..., :2], sizes], -1)
        return bounding_boxes.decode_deltas_to_boxes(references, deltas, "xyxy", "xyxy", _DELTAS)


def clip_boxes(
    boxes: Tensor, scores: Tensor, image_size: tuple[Tensor | int, Tensor | int]
) -> tuple[Tensor, Tensor]:
    """Clips boxes to an image; the score of a box without area, or of NaN, becomes 0.

    Args:
        boxes: (..., 4), xyxy.
        scores: (...).
        image_size: (height, width).
    """
    height, width = (backend.scalar(length, "float32") for length in image_size)
    boxes = ops.clip(boxes, 0, ops.stack([width, height, width, height]))
    # A box outside the image has no area left.
    has_area = ops.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return boxes, ops.where(has_area, scores, 0.0)
