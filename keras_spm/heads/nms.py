"""Non-maximum suppression."""

import math

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer, check_number
from keras_spm.heads.box_coder import check_boxes
from keras_spm.types import Tensor

_TILE = 256  # Boxes per iteration.


def non_max_suppression(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keeps the boxes with the highest scores that do not overlap within their class.

    The result is that of greedy suppression: a box is kept unless a kept box of the same
    class with a higher score (or the same score and a lower index) has an intersection over
    union above the threshold with it. It is computed in tiles of boxes instead of box by
    box, until `max_detections` boxes of every image are kept. All shapes are static.

    Args:
        boxes: (batch, boxes, 4), xyxy.
        scores: (batch, boxes) floats; entries whose score is not above 0 are padding.
        labels: (batch, boxes) ints.
        iou_threshold: float from 0 to 1.
        max_detections: int.

    Returns:
        (boxes, scores, labels): (batch, max_detections, 4), (batch, max_detections) and
        (batch, max_detections), by descending score; padded with 0, 0 and -1.

    Raises:
        ValueError: for a threshold or a number of detections out of range, or boxes that are
            not in a batch.
    """
    check_number("iou_threshold", iou_threshold, maximum=1)
    check_integer("max_detections", max_detections)
    check_boxes(boxes, labels)
    boxes, scores, labels = _whole_tiles(boxes, scores, labels)
    # Backends sort NaN differently.
    scores = ops.where(scores > 0, scores, 0.0)
    order = ops.argsort(-scores, axis=1)
    scores = backend.take_along_rows(scores, order)
    boxes = backend.take_along_rows(boxes, order[..., None])
    labels = backend.take_along_rows(labels, order)
    kept, counts = _kept_indices(boxes, scores, labels, iou_threshold, max_detections)
    is_kept = ops.arange(max_detections) < counts[:, None]
    boxes = backend.take_along_rows(boxes, kept[..., None])
    scores = backend.take_along_rows(scores, kept)
    labels = backend.take_along_rows(labels, kept)
    return (
        ops.where(is_kept[..., None], boxes, 0.0),
        ops.where(is_kept, scores, 0.0),
        ops.where(is_kept, labels, -1),
    )


def top_scores(scores: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Returns the highest scores and their indices, (batch, count) each, or as many as there are.

    NaN, which some backends sort as the largest number, becomes minus infinity. In exports, the
    count is fixed: missing scores are minus infinity, with a valid index.

    Args:
        scores: (batch, scores) floats.
        count: int.
    """
    size = ops.shape(scores)[1]  # A graph may not know it yet.
    scores = ops.where(ops.isnan(scores), -math.inf, scores)
    if backend.is_exporting():
        missing = ops.full((ops.shape(scores)[0], count), -math.inf, scores.dtype)
        scores, indices = ops.top_k(ops.concatenate([scores, missing], axis=1), count)
        return scores, ops.minimum(indices, backend.scalar(size - 1, "int32"))
    is_known = isinstance(size, int) and isinstance(count, int)
    count = min(count, size) if is_known else ops.minimum(count, size)
    return ops.top_k(scores, count)


def _whole_tiles(boxes, scores, labels):
    """Pads to at least one tile, so that nothing is gathered from an axis of length 0."""
    boxes, scores, labels = map(ops.convert_to_tensor, (boxes, scores, labels))
    padding = _TILE - ops.shape(scores)[1] % _TILE
    scores = backend.pad(scores, ((0, 0), (0, padding)))
    labels = backend.pad(labels, ((0, 0), (0, padding)))
    return backend.pad(boxes, ((0, 0), (0, padding), (0, 0))), scores, labels


def _kept_indices(boxes, scores, labels, iou_threshold, max_detections):
    """Suppresses boxes in whole tiles, which are sorted by descending score.

    Returns (batch, max_detections) indices, and the numbers (batch,) of those that are valid.
    """
    batch, count = ops.shape(scores)
    tiles = count // _TILE

    def overlap(first_boxes, first_labels, second_boxes, second_labels):
        """(batch, first, second) bool: whether boxes suppress each other."""
        same_label = first_labels[:, :, None] == second_labels[:, None, :]
        return (_iou(first_boxes, second_boxes) > iou_threshold) & same_label

    def is_unfinished(tile, kept, counts, boxes, scores, labels):
        # Scores descend: if the first of a tile is padding, so is all that follows.
        # After the last tile, the first one is read, which makes no difference.
        first = tile % tiles * _TILE
        has_candidates = backend.rows_from(scores, first, 1)[:, 0] > 0
        return (tile < tiles) & ops.any(has_candidates & (counts < max_detections))

    def process_tile(tile, kept, counts, boxes, scores, labels):
        slots = ops.arange(max_detections, dtype="int32")
        offsets = ops.arange(_TILE, dtype="int32")
        start = tile * _TILE
        tile_boxes, tile_labels, tile_scores = (
            backend.rows_from(each, start, _TILE) for each in (boxes, labels, scores)
        )
        kept_boxes = backend.take_along_rows(boxes, kept[..., None])
        kept_labels = backend.take_along_rows(labels, kept)
        by_kept = overlap(kept_boxes, kept_labels, tile_boxes, tile_labels)
        by_kept = by_kept & (slots < counts[:, None])[:, :, None]
        candidates = (tile_scores > 0) & ~ops.any(by_kept, axis=1)
        is_earlier = offsets[:, None] < offsets[None, :]
        within = overlap(tile_boxes, tile_labels, tile_boxes, tile_labels) & is_earlier
        keep = _greedy(within, candidates)
        # Position k of the kept boxes is filled by the box that is the k-th to be kept.
        ranks = counts[:, None] + ops.cumsum(ops.cast(keep, "int32"), axis=1) - 1
        fills = keep[:, None, :] & (ranks[:, None, :] == slots[:, None])
        kept = kept + ops.sum(ops.cast(fills, "int32") * (start + offsets), axis=2)
        return tile + 1, kept, counts + ops.sum(ops.cast(keep, "int32"), axis=1)

    kept = ops.zeros((batch, max_detections), "int32")
    state = (ops.convert_to_tensor(0, "int32"), kept, ops.zeros((batch,), "int32"))
    _, kept, counts = backend.while_loop(
        is_unfinished, process_tile, state, (boxes, scores, labels)
    )
    return kept, ops.minimum(counts, max_detections)


def _iou(first, second):
    """Returns the intersection over union of boxes, (batch, first, second).

    As `keras.utils.bounding_boxes.compute_iou`, whose constants a loop in an export cannot have.
    """
    first, second = first[:, :, None], second[:, None]
    sides = ops.relu(
        ops.minimum(first[..., 2:], second[..., 2:]) - ops.maximum(first[..., :2], second[..., :2])
    )
    intersections = sides[..., 1] * sides[..., 0]
    areas = [
        (each[..., 3] - each[..., 1]) * (each[..., 2] - each[..., 0]) for each in (first, second)
    ]
    return intersections / (areas[0] + areas[1] - intersections + keras.config.epsilon())


def _greedy(overlaps, candidates):
    """Returns (batch, boxes) bool, the kept boxes of a tile.

    "A box is kept if no kept box suppresses it" has one fixed point. Iteration reaches it
    in at most as many steps as the longest chain of suppressions has boxes.

    Args:
        overlaps: (batch, boxes, boxes) bool, whether the first box suppresses the second.
        candidates: (batch, boxes) bool.
    """

    def is_changing(keep, previous, overlaps, candidates):
        return ops.any(keep != previous)

    def step(keep, previous, overlaps, candidates):
        return candidates & ~ops.any(overlaps & keep[:, :, None], axis=1), keep

    constants = (overlaps, candidates)
    state = step(candidates, candidates, *constants)
    keep, _ = backend.while_loop(is_changing, step, state, constants)
    return keep
