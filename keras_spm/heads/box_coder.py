"""Boxes as a detector learns them: by how far each lies from its anchor."""

import math

from keras import ops
from keras.utils import bounding_boxes

# Of a side that a network wants enlarged beyond this, it was never trained on.
_LARGEST_GROWTH = math.log(1000 / 16)
_DELTAS = "center_xywh"


def encode_boxes(anchors, boxes):
    """Returns the deltas that lead from anchors to boxes.

    Args:
        anchors: (anchors, 4) left, top, right, bottom.
        boxes: (batch, anchors, 4), likewise, one for each anchor. One without area, such as
            fills the places of missing objects, has finite deltas too.

    Returns:
        (batch, anchors, 4): the center's way to the right and down, in the anchor's width
        and height, and the logarithms of the width and height in the anchor's.

    Reference:
        Girshick et al., Rich feature hierarchies, arXiv 1311.2524, appendix C.
    """
    return bounding_boxes.encode_box_to_deltas(anchors, boxes, "xyxy", "xyxy", _DELTAS)


def decode_boxes(anchors, deltas):
    """Returns the boxes, (batch, anchors, 4), to which deltas lead from anchors.

    The inverse of `encode_boxes`, but that no side becomes more than 62.5 times its anchor's.

    Args:
        anchors: (anchors, 4) or (batch, anchors, 4) left, top, right, bottom.
        deltas: (batch, anchors, 4).
    """
    deltas = ops.concatenate([deltas[..., :2], ops.minimum(deltas[..., 2:], _LARGEST_GROWTH)], -1)
    return bounding_boxes.decode_deltas_to_boxes(anchors, deltas, "xyxy", "xyxy", _DELTAS)
