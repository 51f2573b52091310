"""Prediction of large images in overlapping windows, and of flipped images."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_spm.arguments import argument_error, check_each, check_integer, check_number
from keras_spm.data.images import ImageLike
from keras_spm.data.transforms import to_pixels
from keras_spm.registry import lookup
from keras_spm.tasks.pasting import paste_masks

_MIN_TILE = 32
# A box is cut off if it ends this near to the end of its window, as a share of its own side.
_CUT_MARGIN = 0.1
# {name of the augmentation: whether each view of a window is flipped}
_FLIPS = {"none": (False,), "flip": (False, True)}


class View(NamedTuple):
    """A window of an image, possibly flipped, as the model gets it."""

    image: int  # Index of the image.
    count: int  # Of the views of the image.
    size: tuple[int, int]  # Height and width of the image.
    window: tuple[int, int, int, int]  # Left, top, right and bottom in the image.
    flipped: bool
    pixels: np.ndarray


class Views:
    """Cuts images into overlapping windows, and flips them.

    Windows cover the image. The last one of a row or column is aligned to the border. An image
    that is not larger than the tile is a single window.

    Args:
        tile: int or (height, width), size of the windows in pixels of the image, at least 32;
            `None` for no windows.
        overlap: float from 0 to below 1, the least share of a window that the next one covers.
        tta: test-time augmentation: `"flip"` adds each window flipped horizontally, `None` adds
            none.
        channels: int, of the images, see `keras_spm.data.transforms.to_pixels`.

    Raises:
        ValueError: if an argument is not one of these.
    """

    def __init__(
        self,
        tile: Any = None,
        overlap: float = 0.25,
        tta: str | None = None,
        channels: int | None = None,
    ) -> None:
        self._tile = None if tile is None else _checked_tile(tile)
        self._overlap = check_number("overlap", overlap, maximum=1, allow_maximum=False)
        self._flips = flips(tta)
        self._channels = channels

    def __call__(self, images: Iterable[ImageLike]) -> Iterator[View]:
        """Yields the views of each image; images are read one by one."""
        for number, image in enumerate(images):
            pixels = to_pixels(image, self._channels)
            size = pixels.shape[:2]
            windows = self.windows(size)
            count = len(windows) * len(self._flips)
            for window, flipped in itertools.product(windows, self._flips):
                left, top, right, bottom = window
                view = pixels[top:bottom, left:right]
                view = view[:, ::-1] if flipped else view
                yield View(number, count, size, window, flipped, view)

    def windows(self, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Returns the (left, top, right, bottom) of each window of an image, row by row."""
        rows, columns = (
            _spans(length, tile, self._overlap)
            for length, tile in zip(size, self._tile or size, strict=True)
        )
        return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def flips(tta: str | None) -> tuple[bool, ...]:
    """Returns whether each view of a test-time augmentation is flipped.

    Raises:
        ValueError: for an unknown one.
    """
    return lookup("tta", "none" if tta is None else tta, _FLIPS)


def mean_of_views(results: Iterable[tuple[View, np.ndarray]]) -> np.ndarray:
    """Averages maps over the views of an image.

    Args:
        results: (view, map over the view, (height, width, channels)) for each view of one image.

    Returns:
        (height, width, channels) float32, for each pixel the mean over its views.
    """
    total = None
    for view, maps in results:
        if view.count == 1:
            return maps
        if total is None:
            total = np.zeros((*view.size, maps.shape[-1]), "float32")
            counts = np.zeros((*view.size, 1), "float32")
        left, top, right, bottom = view.window
        total[top:bottom, left:right] += maps[:, ::-1] if view.flipped else maps
        counts[top:bottom, left:right] += 1
    total /= counts
    return total


def detections_of_images(
    outputs: dict[str, np.ndarray],
    scales: Iterable[tuple[float, float]],
    sizes: Iterable[tuple[int, int]],
) -> list[dict[str, np.ndarray]]:
    """Returns the detections in each image of a batch, without padding, in its own pixels.

    Args:
        outputs: dict of `boxes` (batch, slots, 4), xyxy in pixels of the batch, `scores` and
            `labels` (batch, slots), -1 for padding; optionally `masks` (batch, slots, 28, 28),
            probabilities inside the boxes.
        scales: (vertical, horizontal) scale of each image in the batch.
        sizes: (height, width) of each image, to which boxes are clipped.

    Returns:
        A dict per image, as `ObjectDetector.detect` returns it; with `masks` (found, height,
        width) bool if the outputs have masks.
    """
    detections = []
    for index, (scale, size) in enumerate(zip(scales, sizes, strict=True)):
        found = {name: np.asarray(values[index]) for name, values in outputs.items()}
        scale, limits = (np.tile(np.float32(each)[::-1], 2) for each in (scale, size))
        whole = found["boxes"] / scale
        boxes = whole.clip(0, limits)
        # A box inside the padding of its batch has no area left.
        valid = (found["labels"] >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        labels = found["labels"][valid].astype("int64")
        detections.append(
            {"boxes": boxes[valid], "scores": found["scores"][valid], "labels": labels}
        )
        if "masks" in found:
            # Of the boxes before they are clipped.
            detections[-1]["masks"] = paste_masks(found["masks"][valid], whole[valid], size)
    return detections


def with_score(detections: dict[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
    """Returns the detections with a score of at least `threshold`."""
    selected = detections["scores"] >= threshold
    return {name: values[selected] for name, values in detections.items()}


def merge_detections(
    results: Iterable[tuple[View, dict[str, np.ndarray]]],
    iou_threshold: float,
    max_detections: int | None = None,
) -> dict[str, np.ndarray]:
    """Merges the detections in the views of an image, so that each object is detected once.

    Two detections of a class are the same object if their intersection over union, within the
    part of the image that both windows show, is above the threshold. For whole boxes this is
    non-maximum suppression; a box that a window cuts off also matches the box of the rest.
    The higher score is kept with its box; but a box that a window cuts off gives way to a whole
    one, and is extended by another one that is cut off. Masks go with their boxes; the mask of an
    extended box is the union of both.

    Args:
        results: (view, detections in its pixels) for each view of one image. Detections are a
            dict of `boxes` (found, 4), xyxy, `scores` and `labels` (found,); optionally `masks`
            (found, height, width).
        iou_threshold: float from 0 to 1.
        max_detections: optional largest number of detections.

    Returns:
        Detections in pixels of the image, by descending score.
    """
    results = list(results)
    if results[0][0].count == 1:
        return results[0][1]
    boxes = np.concatenate([_to_image(view, found["boxes"]) for view, found in results])
    scores, labels = (
        np.concatenate([found[name] for _, found in results]) for name in ("scores", "labels")
    )
    seen = np.repeat(
        np.array([_seen(view) for view, _ in results], "float32"),
        [len(found["scores"]) for _, found in results],
        axis=0,
    )
    kept = np.argsort(-scores, kind="stable")
    # The boxes that each box is made of.
    sources = [[index] for index in range(len(boxes))]
    count = None
    while count != len(kept):  # An extended box may match another one that was kept before.
        count = len(kept)
        merged = [
            _merge_class(boxes, seen, sources, kept[labels[kept] == label], iou_threshold)
            for label in np.unique(labels)
        ]
        kept = np.concatenate([*merged, np.zeros(0, int)]).astype(int)
        kept = kept[np.argsort(-scores[kept], kind="stable")]
    kept = kept[:max_detections]
    merged = {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
    if "masks" in results[0][1]:
        merged["masks"] = _merge_masks(results, [sources[index] for index in kept])
    return merged


def _merge_masks(results, sources):
    """Returns (kept, height, width) bool, for each kept box the union of masks in all views."""
    masks = [(view, mask) for view, found in results for mask in found["masks"]]
    merged = np.zeros((len(sources), *results[0][0].size), bool)
    for target, indices in zip(merged, sources, strict=True):
        for view, mask in (masks[index] for index in indices):
            left, top, right, bottom = view.window
            target[top:bottom, left:right] |= mask[:, ::-1] if view.flipped else mask
    return merged


def _checked_tile(tile):
    sides = tile if isinstance(tile, (tuple, list)) else (tile, tile)
    try:
        return check_each("tile", sides, check_integer, 2, minimum=_MIN_TILE)
    except ValueError:
        allowed = f"an integer of at least {_MIN_TILE}, or two of them, (height, width)"
        raise argument_error("tile", allowed, tile) from None


def _spans(length, tile, overlap):
    """Returns the (start, end) of overlapping windows along an axis."""
    stride = max(1, int(tile * (1 - overlap)))
    last = max(0, length - tile)
    starts = [*range(0, last, stride), last]
    return [(start, min(start + tile, length)) for start in starts]


def _seen(view):
    """Returns the window of a view, without an end where the image ends."""
    left, top, right, bottom = view.window
    height, width = view.size
    return [
        left or -np.inf,
        top or -np.inf,
        right if right < width else np.inf,
        bottom if bottom < height else np.inf,
    ]


def _to_image(view, boxes):
    """Converts boxes from pixels of a view to pixels of the image."""
    left, top, right, _ = view.window
    if view.flipped:
        width = np.float32(right - left)
        flipped_right, upper, flipped_left, lower = boxes.T
        boxes = np.stack([width - flipped_left, upper, width - flipped_right, lower], axis=1)
    return boxes + np.float32([left, top, left, top])


def _merge_class(boxes, seen, sources, order, iou_threshold):
    """Merges the boxes of a class, and extends those that are kept, in place.

    Args:
        boxes: (count, 4) of all classes.
        seen: (count, 4), the part of the image in which each box was searched.
        sources: the indices of the boxes that each box is made of, changed in place.
        order: indices of the boxes of the class, by descending score.
        iou_threshold: float.

    Returns:
        Indices of the kept boxes.
    """
    kept = []
    # Of the boxes that are kept, in one piece of memory.
    kept_boxes, kept_seen = np.empty_like(boxes[order]), np.empty_like(seen[order])
    for index in order:
        box, window, count = boxes[index], seen[index], len(kept)
        touches = (kept_boxes[:count, :2] < box[2:]) & (kept_boxes[:count, 2:] > box[:2])
        near = np.flatnonzero(touches.all(axis=1))
        overlaps = _overlaps(box, window, kept_boxes[near], kept_seen[near])
        if not (overlaps > iou_threshold).any():
            kept_boxes[count], kept_seen[count] = box, window
            kept.append(index)
            continue
        best = near[overlaps.argmax()]
        joined = _joined(kept_boxes[best], kept_seen[best], box, window)
        if (joined != kept_boxes[best]).any():
            is_replaced = joined is box
            sources[kept[best]] = sources[index] + ([] if is_replaced else sources[kept[best]])
        kept_boxes[best] = joined
        kept_seen[best] = _hull(kept_seen[best], window)
    boxes[kept], seen[kept] = kept_boxes[: len(kept)], kept_seen[: len(kept)]
    return kept


def _joined(box, seen, other, other_seen):
    """Returns the box of an object of which two windows found a box, the first more surely."""
    beyond = np.concatenate([other[:2] < seen[:2], other[2:] > seen[2:]])
    missing = _is_cut(box, seen) & beyond
    if missing.any() and not _is_cut(other, other_seen).any():
        return other
    return np.where(missing, other, box)


def _is_cut(box, seen):
    """Returns for each side of a box whether its window ends there."""
    margin = _CUT_MARGIN * np.tile(box[2:] - box[:2], 2)
    return np.concatenate([box[:2] <= seen[:2] + margin[:2], box[2:] >= seen[2:] - margin[2:]])


def _hull(box, other):
    corners = np.minimum(box[:2], other[:2])
    return np.concatenate([corners, np.maximum(box[2:], other[2:])])


def _overlaps(box, seen, other_boxes, other_seen):
    """Returns the IoU of a box and others in the part of the image that both windows show."""
    box, others = _intersection(box, other_seen), _intersection(other_boxes, seen)
    shared = _area(_intersection(box, others))
    return shared / np.maximum(_area(box) + _area(others) - shared, np.finfo("float32").tiny)


def _intersection(boxes, others):
    corners = np.maximum(boxes[..., :2], others[..., :2])
    return np.concatenate([corners, np.minimum(boxes[..., 2:], others[..., 2:])], axis=-1)


def _area(boxes):
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)
