"""Matching of anchors or proposals with ground-truth boxes, and sampling of the matches."""

import keras
from keras import ops
from keras.utils import bounding_boxes

from keras_spm import backend
from keras_spm.arguments import check_bool, check_integer, check_number
from keras_spm.heads.box_coder import check_boxes
from keras_spm.types import Tensor

BACKGROUND, IGNORE = -1, -2


class Matcher:
    """Assigns each candidate box a ground-truth box, background, or ignore.

    A candidate is assigned the ground-truth box with the highest intersection over union
    (IoU) if that is at least `positive_threshold`, background if it is below
    `negative_threshold`, and ignore in between. With `allow_low_quality_matches`, a
    ground-truth box is also assigned to every candidate that has its highest IoU, if that is
    at least `low_quality_threshold`; of several ground-truth boxes the last one wins. All
    shapes are static.

    Args:
        positive_threshold: float from 0 to 1.
        negative_threshold: float from 0 to `positive_threshold`.
        allow_low_quality_matches: bool.
        low_quality_threshold: float from 0 to 1.

    Raises:
        ValueError: if a threshold is out of range.

    Reference:
        Ren et al., Faster R-CNN, arXiv 1506.01497, section 3.1.2; ties as in mmdetection's
        `MaxIoUAssigner`.
    """

    def __init__(
        self,
        positive_threshold: float,
        negative_threshold: float,
        allow_low_quality_matches: bool = True,
        low_quality_threshold: float = 0.0,
    ) -> None:
        self.positive_threshold = check_number("positive_threshold", positive_threshold, maximum=1)
        self.negative_threshold = check_number(
            "negative_threshold", negative_threshold, maximum=self.positive_threshold
        )
        self.allow_low_quality_matches = check_bool(
            "allow_low_quality_matches", allow_low_quality_matches
        )
        self.low_quality_threshold = check_number(
            "low_quality_threshold", low_quality_threshold, maximum=1
        )

    def __call__(self, candidates: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Returns (batch, candidates) int32: index of a box, `BACKGROUND` or `IGNORE`.

        Args:
            candidates: (candidates, 4) or (batch, candidates, 4), xyxy.
            boxes: (batch, objects, 4), xyxy.
            labels: (batch, objects) ints; entries below 0 are padding.

        Raises:
            ValueError: for boxes that are not in a batch.
        """
        check_boxes(boxes, labels)
        boxes, labels = with_padding_object(boxes, labels)
        iou = bounding_boxes.compute_iou(boxes, candidates, "xyxy")
        iou = ops.where(ops.expand_dims(labels >= 0, -1), iou, -1.0)
        best_iou = ops.max(iou, axis=1)
        matches = ops.cast(ops.argmax(iou, axis=1), "int32")
        unmatched = ops.where(best_iou < self.negative_threshold, BACKGROUND, IGNORE)
        matches = ops.where(best_iou >= self.positive_threshold, matches, unmatched)
        if self.allow_low_quality_matches:
            highest = ops.max(iou, axis=2, keepdims=True)
            # A box that overlaps no candidate has its highest IoU, 0, everywhere.
            is_assigned = (highest > 0) & (highest >= self.low_quality_threshold)
            is_highest = (iou == highest) & is_assigned
            indices = ops.arange(ops.shape(iou)[1], dtype="int32")[None, :, None]
            low_quality = ops.max(ops.where(is_highest, indices, BACKGROUND), axis=1)
            matches = ops.where(low_quality >= 0, low_quality, matches)
        return ops.cast(matches, "int32")


def with_padding_object(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (boxes, labels) with one entry of padding, if there may be no entries at all.

    Reductions and gathers over an axis of length 0 are errors, or undefined.

    Args:
        boxes: (batch, objects, 4).
        labels: (batch, objects) ints.
    """
    boxes, labels = ops.convert_to_tensor(boxes), ops.convert_to_tensor(labels)
    if labels.shape[1]:  # Neither 0 nor unknown.
        return boxes, labels
    labels = backend.pad(labels + 1, ((0, 0), (0, 1))) - 1
    return backend.pad(boxes, ((0, 0), (0, 1), (0, 0))), labels


class BalancedSampler:
    """Samples a fixed number of matches with a bounded share of positives.

    At most `num_samples * positive_fraction` positives are sampled at random; background
    fills the rest. Fewer are sampled if there are not enough. All shapes are static.

    Args:
        num_samples: int, per image.
        positive_fraction: float from 0 to 1.
        seed: int or `keras.random.SeedGenerator`.

    Reference:
        Ren et al., Faster R-CNN, arXiv 1506.01497, section 3.1.3.
    """

    def __init__(
        self,
        num_samples: int,
        positive_fraction: float,
        seed: int | keras.random.SeedGenerator | None = None,
    ) -> None:
        self.num_samples = check_integer("num_samples", num_samples)
        self.positive_fraction = check_number("positive_fraction", positive_fraction, maximum=1)
        self.seed = seed

    @property
    def max_positives(self) -> int:
        """Largest number of positive samples."""
        return int(self.num_samples * self.positive_fraction)

    def __call__(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (indices, matches) of the samples, both (batch, num_samples) int32.

        Positives come first, then background. The rest, if there are fewer samples, has index
        0 and match `IGNORE`.

        Args:
            matches: (batch, candidates) ints, the output of a `Matcher`.
        """
        matches = ops.cast(matches, "int32")
        # There may be fewer candidates than samples.
        padding = ((0, 0), (0, self.num_samples))
        matches = backend.pad(matches - IGNORE, padding) + IGNORE
        priorities = keras.random.uniform(ops.shape(matches), seed=self.seed)
        positives, num_positives = _draw(priorities, matches >= 0, self.max_positives)
        negatives, num_negatives = _draw(priorities, matches == BACKGROUND, self.num_samples)
        slots = ops.arange(self.num_samples, dtype="int32")[None]
        order = ops.where(slots < num_positives, slots, self.max_positives + slots - num_positives)
        indices = ops.concatenate([positives, negatives], axis=1)
        indices = ops.take_along_axis(indices, order, axis=1)
        is_sampled = slots < num_positives + num_negatives
        sampled_matches = ops.take_along_axis(matches, indices, axis=1)
        return ops.where(is_sampled, indices, 0), ops.where(is_sampled, sampled_matches, IGNORE)


def _draw(priorities, eligible, most):
    """Returns the eligible entries with the highest priorities, first, and their number.

    (batch, most) int32 indices, and (batch, 1) int32.
    """
    _, indices = ops.top_k(ops.where(eligible, priorities, -1.0), most)
    count = ops.sum(ops.cast(eligible, "int32"), axis=1, keepdims=True)
    return ops.cast(indices, "int32"), ops.minimum(count, most)
