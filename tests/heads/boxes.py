"""Boxes for the tests of detectors: random ones, and their overlap by definition."""

import math

import numpy as np

from keras_spm.heads.matcher import BACKGROUND, IGNORE


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


def matches_of(
    candidates, boxes, labels, positive_threshold, negative_threshold, low_quality, least=0
):
    """Returns the matches by definition, candidate by candidate, for one image.

    `least` is the lowest overlap of a low-quality match.
    """
    iou = np.array(
        [
            [intersection_over_union(*pair) for pair in ((c, box) for box in boxes)]
            for c in candidates
        ]
    )
    objects = [index for index, label in enumerate(labels) if label >= 0]
    matches = []
    for row in iou:
        best = max(objects, key=lambda index: row[index], default=None)
        if best is None or row[best] < negative_threshold:
            matches.append(BACKGROUND)
        else:
            matches.append(best if row[best] >= positive_threshold else IGNORE)
    for index in objects if low_quality else ():
        highest = iou[:, index].max()
        for candidate in np.flatnonzero(
            (iou[:, index] == highest) & (highest > 0) & (highest >= least)
        ):
            matches[candidate] = index
    return matches


def _samples(start, end, bins, sampling_ratio):
    """Positions of the samples of each bin along an axis."""
    size = (end - start) / bins
    count = sampling_ratio or math.ceil(size)
    return [
        [start + size * index + (number + 0.5) * size / count for number in range(count)]
        for index in range(bins)
    ]


def _corners(position, length):
    """(cell, weight) of linear interpolation; nothing beyond one cell outside the map."""
    if not -1 <= position <= length:
        return []
    position = min(max(position, 0), length - 1)
    low = int(position)
    return [(low, 1 - position + low), (min(low + 1, length - 1), position - low)]


def roi_weights(box, stride, size, bins, sampling_ratio):
    """(bins, bins, height, width): weights of the cells of a map in each bin of a box."""
    weights = np.zeros((bins, bins, *size))
    box = np.asarray(box, "float64") / stride - 0.5
    rows, columns = (_samples(box[axis], box[axis + 2], bins, sampling_ratio) for axis in (1, 0))
    for i, j in np.ndindex(bins, bins):
        for y in rows[i]:
            for x in columns[j]:
                for row, row_weight in _corners(y, size[0]):
                    for column, column_weight in _corners(x, size[1]):
                        share = row_weight * column_weight / (len(rows[i]) * len(columns[j]))
                        weights[i, j, row, column] += share
    return weights
