"""Non-maximum suppression."""

from keras import ops
from keras.utils import bounding_boxes


def suppress_overlaps(boxes, scores, labels, iou_threshold, max_detections):
    """Keeps the best boxes, and of boxes of one class that overlap, the best alone.

    Greedy, image by image: the box of the highest score is kept (the first of equals), and
    those of its class whose intersection over union with it is above the threshold go. All
    shapes are static; what is cut off by `max_detections` is what greedy suppression would
    have kept later.

    Args:
        boxes: (batch, boxes, 4) left, top, right, bottom.
        scores: (batch, boxes) floats, above 0; boxes of score 0 are not there.
        labels: (batch, boxes) ints.
        iou_threshold: float.
        max_detections: int.

    Returns:
        (boxes, scores, labels): (batch, max_detections, 4), (batch, max_detections) and
        (batch, max_detections), the best first; where there are fewer, 0, 0 and -1.
    """
    places = ops.arange(ops.shape(scores)[1], dtype="int32")
    turns = ops.arange(max_detections, dtype="int32")

    def is_unfinished(turn, remaining, kept, kept_scores):
        return (turn < max_detections) & ops.any(remaining > 0)

    def keep_best(turn, remaining, kept, kept_scores):
        place = ops.cast(ops.argmax(remaining, axis=1, keepdims=True), "int32")
        score = ops.take_along_axis(remaining, place, axis=1)
        box = ops.take_along_axis(boxes, place[..., None], axis=1)
        label = ops.take_along_axis(labels, place, axis=1)
        overlaps = bounding_boxes.compute_iou(box, boxes, "xyxy")[:, 0]
        gone = ((overlaps > iou_threshold) & (labels == label)) | (places == place)
        return (
            turn + 1,
            ops.where(gone, 0.0, remaining),
            ops.where(turns == turn, place, kept),
            ops.where(turns == turn, score, kept_scores),
        )

    kept = ops.zeros_like(scores[:, :1], dtype="int32") * turns
    start = (ops.convert_to_tensor(0), scores, kept, ops.cast(kept, "float32"))
    _, _, kept, scores = ops.while_loop(is_unfinished, keep_best, start)
    boxes = ops.take_along_axis(boxes, kept[..., None], axis=1)
    labels = ops.take_along_axis(labels, kept, axis=1)
    is_there = scores > 0
    return (
        ops.where(is_there[..., None], boxes, 0.0),
        scores,
        ops.where(is_there, labels, -1),
    )
