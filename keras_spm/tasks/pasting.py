"""Masks of detections, from the grid of a box to the pixels of an image."""

import numpy as np

from keras_spm.arguments import argument_error, check_each, check_integer, check_number


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """Returns the masks of boxes in an image, (masks, height, width) bool.

    A pixel is in a mask if the bilinear sample at its center is at least `threshold`. Beyond
    the box, values decrease to 0. A box without area has no pixels. Each mask is computed in
    the window of its box alone.

    Args:
        masks: (masks, rows, columns) probabilities; their grid covers the box.
        boxes: (masks, 4), xyxy in pixels of the image.
        size: (height, width) of the image.
        threshold: float from 0 to 1, not 0.

    Raises:
        ValueError: for other shapes, or an argument out of range.

    Example:

    >>> masks = paste_masks(np.ones((1, 28, 28)), np.array([[1.0, 0.0, 3.0, 2.0]]), (3, 4))
    >>> masks[0].astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])

    Reference:
        He et al., Mask R-CNN, arXiv 1703.06870, section 3.1; as in mmdetection.
    """
    masks, boxes = np.asarray(masks, "float32"), np.asarray(boxes, "float32")
    height, width = check_each("size", size, check_integer, 2)
    check_number("threshold", threshold, maximum=1, allow_minimum=False)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        allowed = "(masks, rows, columns) and `boxes` (masks, 4)"
        raise argument_error("masks", allowed, f"shapes {masks.shape} and {boxes.shape}")
    pasted = np.zeros((len(masks), height, width), bool)
    _, rows, columns = masks.shape
    for image, mask, (left, top, right, bottom) in zip(pasted, masks, boxes, strict=True):
        if not (right > left and bottom > top):
            continue
        window_rows, row_weights = _interpolation(top, bottom, height, rows)
        window_columns, column_weights = _interpolation(left, right, width, columns)
        values = row_weights @ mask @ column_weights.T
        image[window_rows, window_columns] = values >= threshold
    return pasted


def _interpolation(start, end, length, cells):
    """Returns the pixels that a box reaches along an axis, and the weights of its cells.

    A slice, and (pixels, cells): linear interpolation between the centers of cells, and
    towards 0 beyond the first and the last one.
    """
    margin = (end - start) / cells / 2
    first = max(int(np.floor(start - margin)), 0)
    last = max(min(int(np.ceil(end + margin)), length), first)
    centers = np.arange(first, last, dtype="float32") + np.float32(0.5)
    positions = (centers - start) / (end - start) * cells - 0.5
    distances = np.abs(positions[:, None] - np.arange(cells, dtype="float32"))
    return slice(first, last), np.maximum(1 - distances, 0).astype("float32")
