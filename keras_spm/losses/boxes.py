"""Box regression losses of (..., 4) targets and predictions; one float32 per box, (...)."""

import keras
from keras import ops

from keras_spm.types import Tensor

# Avoids division by zero: smaller than the area of any box, and its square fits float32.
_EPSILON = 1e-12


def l1_loss(targets: Tensor, predictions: Tensor) -> Tensor:
    """Sums the absolute differences of the four numbers of a box."""
    return ops.sum(_distances(targets, predictions), axis=-1)


def smooth_l1_loss(targets: Tensor, predictions: Tensor, beta: float = 1 / 9) -> Tensor:
    """Sums a function of the differences that is quadratic near zero and linear elsewhere.

    A distance d contributes `d**2 / (2 * beta)` below `beta` and `d - beta / 2` from there.

    Args:
        targets, predictions: (..., 4).
        beta: float, at least 0; 0 is `l1_loss`.

    Raises:
        ValueError: if `beta` is negative.

    Reference:
        Girshick, Fast R-CNN, arXiv 1504.08083, equation 3, with a `beta` of 1.
    """
    if beta < 0:
        raise ValueError(f"`beta` must be at least 0. Received: beta={beta}")
    if beta == 0:
        return l1_loss(targets, predictions)
    distances = _distances(targets, predictions)
    near = ops.minimum(distances, beta)
    return ops.sum(near / beta * (distances - near / 2), axis=-1)


def generalized_iou_loss(targets: Tensor, predictions: Tensor, bounding_box_format: str) -> Tensor:
    """Computes one minus the generalized intersection over union, from 0 to 2.

    Generalized IoU is IoU minus the fraction of the smallest enclosing box that neither box
    covers. Unlike IoU it has a gradient for disjoint boxes. Boxes may have no area, and
    their corners may be in either order.

    Args:
        targets, predictions: (..., 4).
        bounding_box_format: of both, as in `keras.utils.bounding_boxes.convert_format`.

    Raises:
        ValueError: if the format is unknown.

    Reference:
        Rezatofighi et al., Generalized IoU, arXiv 1902.09630, algorithm 2.
    """
    true_start, true_end = _corners(targets, bounding_box_format)
    start, end = _corners(predictions, bounding_box_format)
    intersection = _area(ops.maximum(true_start, start), ops.minimum(true_end, end))
    union = _area(true_start, true_end) + _area(start, end) - intersection
    enclosing = _area(ops.minimum(true_start, start), ops.maximum(true_end, end))
    iou = intersection / ops.maximum(union, _EPSILON)
    return 1 - iou + (enclosing - union) / ops.maximum(enclosing, _EPSILON)


def _distances(targets: Tensor, predictions: Tensor) -> Tensor:
    differences = ops.cast(predictions, "float32") - ops.cast(targets, "float32")
    # In JAX the gradient of abs at 0 is 1; here it is 0 on every backend.
    return differences * ops.sign(differences)


def _corners(boxes: Tensor, bounding_box_format: str) -> tuple[Tensor, Tensor]:
    """Returns ((left, top), (right, bottom)), each (..., 2)."""
    # Ratios of areas are independent of the image size, so relative boxes need no scaling.
    boxes = keras.utils.bounding_boxes.convert_format(
        boxes, bounding_box_format, "xyxy", height=1, width=1
    )
    first, second = boxes[..., :2], boxes[..., 2:]
    return ops.minimum(first, second), ops.maximum(first, second)


def _area(start: Tensor, end: Tensor) -> Tensor:
    sides = ops.relu(end - start)
    return sides[..., 0] * sides[..., 1]
