"""Boxes for the tests of detectors: random ones, and their overlap by definition."""

import numpy as np


def random_boxes(generator, *shape, side=100):
    """Returns float32 boxes, (*shape, 4), xyxy, with corners from 0 to `side`."""
    corners = generator.uniform(0, side, (*shape, 2, 2))
    return np.sort(corners, axis=-2).reshape(*shape, 4).astype("float32")


def intersection_over_union(left, right):
    """Returns the overlap of two boxes."""
    left, right = (np.asarray(box, "float64") for box in (left, right))
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    intersection = max(width, 0) * max(height, 0)
    if not intersection:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return intersection / (sum(areas) - intersection)


def greedy_suppression(boxes, scores, labels, threshold, max_detections):
    """Returns the indices that non-maximum suppression within each class keeps."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        same_class = [other for other in kept if labels[other] == labels[index]]
        overlaps = (intersection_over_union(boxes[other], boxes[index]) for other in same_class)
        if scores[index] > 0 and all(overlap <= threshold for overlap in overlaps):
            kept.append(index)
    return kept[:max_detections]
