"""Losses of boxes: (..., 4) targets and predictions to (...), one loss per box."""

import keras
from keras import ops

# The least that an area is divided by: below that of any box, and float32 holds its square.
_SMALLEST_AREA = 1e-12


def l1_loss(targets, predictions):
    """Sum of the absolute differences of a box's four numbers.

    Args:
        targets: (..., 4).
        predictions: (..., 4).

    Returns:
        (...), float32.
    """
    return ops.sum(_distances(targets, predictions), axis=-1)


def smooth_l1_loss(targets, predictions, beta=1 / 9):
    """Sum over a box's four numbers of what is quadratic near the target and linear far off.

    A distance d counts `d**2 / (2 * beta)` below `beta` and `d - beta / 2` from there on.

    Args:
        targets: (..., 4).
        predictions: (..., 4).
        beta: float, at least 0; 0 is `l1_loss`.

    Returns:
        (...), float32.

    Raises:
        ValueError: where `beta` is negative.

    Reference:
        Girshick, Fast R-CNN, arXiv 1504.08083, equation 3, there with a `beta` of 1.
    """
    if beta < 0:
        raise ValueError(f"`beta` must be at least 0. Received: beta={beta}")
    if beta == 0:
        return l1_loss(targets, predictions)
    distances = _distances(targets, predictions)
    near = ops.minimum(distances, beta)
    return ops.sum(near / beta * (distances - near / 2), axis=-1)


def generalized_iou_loss(targets, predictions, bounding_box_format):
    """One minus the generalized intersection over union, from 0 to 2.

    Intersection over union, minus the share of the smallest enclosing box that neither
    box covers: unlike the first alone it has a gradient where the boxes are apart. Boxes
    without area are allowed, and corners may come in either order.

    Args:
        targets: (..., 4).
        predictions: (..., 4).
        bounding_box_format: str, of both, as `keras.utils.bounding_boxes.convert_format`
            takes them, for example `"xyxy"`.

    Returns:
        (...), float32.

    Raises:
        ValueError: for an unknown format.

    Reference:
        Rezatofighi et al., Generalized Intersection over Union, arXiv 1902.09630,
        algorithm 2.
    """
    true_start, true_end = _corners(targets, bounding_box_format)
    start, end = _corners(predictions, bounding_box_format)
    intersection = _area(ops.maximum(true_start, start), ops.minimum(true_end, end))
    union = _area(true_start, true_end) + _area(start, end) - intersection
    enclosing = _area(ops.minimum(true_start, start), ops.maximum(true_end, end))
    iou = intersection / ops.maximum(union, _SMALLEST_AREA)
    return 1 - iou + (enclosing - union) / ops.maximum(enclosing, _SMALLEST_AREA)


def _distances(targets, predictions):
    differences = ops.cast(predictions, "float32") - ops.cast(targets, "float32")
    # JAX gives the absolute value of 0 the gradient 1; this has 0 everywhere.
    return differences * ops.sign(differences)


def _corners(boxes, bounding_box_format):
    """Returns ((left, top), (right, bottom)), each (..., 2)."""
    # Scaling an axis changes no share of areas, so relative boxes can stand for pixels.
    boxes = keras.utils.bounding_boxes.convert_format(
        boxes, bounding_box_format, "xyxy", height=1, width=1
    )
    first, second = boxes[..., :2], boxes[..., 2:]
    return ops.minimum(first, second), ops.maximum(first, second)


def _area(start, end):
    sides = ops.relu(end - start)
    return sides[..., 0] * sides[..., 1]
