"""Which anchor answers for which object."""

from keras import ops
from keras.utils import bounding_boxes

NEGATIVE, IGNORED = -1, -2


def match_anchors(anchors, boxes, labels, positive=0.5, negative=0.4):
    """Gives every anchor an object, none, or no say.

    An anchor answers for the object that it overlaps most, where their intersection over
    union is at least `positive`, or where it is the anchor that overlaps some object most:
    so objects that no anchor fits are answered for too, unless their best anchor overlaps
    another object more. Below `negative` it answers for the background; in between it has
    no say. All shapes are static.

    Args:
        anchors: (anchors, 4) left, top, right, bottom.
        boxes: (batch, objects, 4), likewise.
        labels: (batch, objects) ints; below 0 where there is no object.
        positive: float, from which overlap on.
        negative: float, up to which overlap.

    Returns:
        (batch, anchors) int32: the object's place, `NEGATIVE` or `IGNORED`.

    Reference:
        Ren et al., Faster R-CNN, arXiv 1506.01497, section 3.1.2; thresholds of RetinaNet.
    """
    overlaps = bounding_boxes.compute_iou(boxes, anchors, "xyxy")
    overlaps = ops.where(ops.expand_dims(labels >= 0, -1), overlaps, -1.0)
    best = ops.max(overlaps, axis=1)
    places = ops.cast(ops.argmax(overlaps, axis=1), "int32")
    most = ops.max(overlaps, axis=2, keepdims=True)
    # An object that no anchor touches has most = 0 everywhere: that says nothing.
    is_most = ops.any((overlaps == most) & (most > 0), axis=1)
    places_or_none = ops.where(best < negative, NEGATIVE, IGNORED)
    return ops.where((best >= positive) | is_most, places, places_or_none)
