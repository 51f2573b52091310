"""Anchors, matching, suppression and the head of RetinaNet against plain definitions."""

import keras
import numpy as np
import pytest

from keras_spm.heads import Anchors
from keras_spm.heads import RetinaNetHead
from keras_spm.heads.matcher import IGNORED
from keras_spm.heads.matcher import NEGATIVE
from keras_spm.heads.matcher import match_anchors
from keras_spm.heads.nms import suppress_overlaps
from tests.helpers import difference
from tests.helpers import random_array
from tests.helpers import randomize
from tests.helpers import to_numpy


def _random_boxes(generator, *shape, side=100):
    corners = generator.uniform(0, side, (*shape, 2, 2))
    return np.sort(corners, axis=-2).reshape(*shape, 4).astype("float32")


def _overlap(left, right):
    """Intersection over union of two boxes."""
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return width * height / (sum(areas) - width * height)


# Anchors


def test_anchors_are_those_of_the_paper():
    anchors = to_numpy(Anchors()({"P4": np.zeros((1, 2, 3, 1)), "P3": np.zeros((1, 1, 1, 1))}))
    assert anchors.shape == ((1 + 2 * 3) * 9, 4)
    # The first of P3: ratio 1 : 2 and area 32². At P4's row 1, column 2: areas 64² and on.
    width, height = 32 * 2**0.5, 32 / 2**0.5
    assert anchors[0] == pytest.approx([-width / 2, -height / 2, width / 2, height / 2])
    last = anchors[-9:]
    centers = (last[:, :2] + last[:, 2:]) / 2
    assert centers == pytest.approx(np.tile([2 * 16, 1 * 16], (9, 1)))
    sides = last[:, 2:] - last[:, :2]
    assert sides.prod(axis=1) == pytest.approx(np.tile([64**2 * 4 ** (n / 3) for n in range(3)], 3))
    assert sides[:, 1] / sides[:, 0] == pytest.approx(np.repeat([0.5, 1, 2], 3))


def test_anchors_count_as_the_head_does():
    maps = {"P3": random_array(2, 5, 3, 8), "P4": random_array(2, 3, 2, 8)}
    anchors = Anchors(scales_per_octave=2, aspect_ratios=(1.0,))
    head = RetinaNetHead(3, anchors.per_position, channels=8, depth=1)
    shapes = {level: each.shape for level, each in maps.items()}
    outputs = head(maps)
    assert head.compute_output_shape(shapes) == {
        name: tuple(each.shape) for name, each in outputs.items()
    }
    assert anchors.compute_output_shape(shapes) == tuple(anchors(maps).shape) == (42, 4)


# Matching


def _matched(anchors, boxes, labels):
    """The definition, anchor by anchor."""
    objects = [place for place, label in enumerate(labels) if label >= 0]
    overlaps = np.array([[_overlap(anchor, box) for box in boxes] for anchor in anchors])
    places = []
    for row in overlaps:
        best = max(objects, key=lambda place: row[place], default=None)
        if best is None:
            places.append(NEGATIVE)
        elif row[best] >= 0.5 or any(0 < row[o] == overlaps[:, o].max() for o in objects):
            places.append(best)
        else:
            places.append(NEGATIVE if row[best] < 0.4 else IGNORED)
    return places


def test_matching_is_the_definition():
    generator = np.random.default_rng(0)
    anchors = _random_boxes(generator, 60)
    boxes = _random_boxes(generator, 40, 5)
    boxes[::2, 1] = anchors[7] + generator.uniform(-4, 4, (20, 4))
    labels = generator.integers(-1, 3, (40, 5))
    labels[:3] = -1
    expected = [_matched(anchors, *each) for each in zip(boxes, labels, strict=True)]
    found = to_numpy(match_anchors(anchors, boxes, labels))
    assert {NEGATIVE, IGNORED, 0} <= set(found.flat)
    assert (found == expected).all()


def test_what_no_anchor_touches_claims_none():
    far = np.array([[[900, 900, 910, 910]]], "float32")
    anchors = _random_boxes(np.random.default_rng(0), 9)
    assert (to_numpy(match_anchors(anchors, far, np.array([[0]]))) == NEGATIVE).all()


# Suppression


def _suppressed(boxes, scores, labels, threshold, most):
    """The definition: greedy, for each class."""
    kept = []
    for place in np.argsort(-scores, kind="stable"):
        rivals = [k for k in kept if labels[k] == labels[place]]
        if scores[place] > 0 and all(_overlap(boxes[k], boxes[place]) <= threshold for k in rivals):
            kept.append(place)
    return kept[:most]


def test_suppression_is_the_definition():
    generator = np.random.default_rng(0)
    boxes = _random_boxes(generator, 1000, 30)
    # In tenths, so that many are equal; a fifth is not there.
    scores = generator.integers(0, 10, (1000, 30)).astype("float32") / 10
    labels = generator.integers(0, 3, (1000, 30))
    found = suppress_overlaps(boxes, scores, labels, 0.3, 12)
    for case, (found_boxes, found_scores, found_labels) in enumerate(
        zip(*map(to_numpy, found), strict=True)
    ):
        kept = _suppressed(boxes[case], scores[case], labels[case], 0.3, 12)
        count = len(kept)
        assert (found_boxes[:count] == boxes[case][kept]).all()
        assert (found_scores[:count] == scores[case][kept]).all()
        assert (found_labels[:count] == labels[case][kept]).all()
        assert (found_labels[count:] == -1).all()
        assert not found_scores[count:].any() and not found_boxes[count:].any()


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 10]]], "float32")
    scores = np.array([[0.9, 0.8]], "float32")
    for labels, count in ([0, 1], 2), ([1, 1], 1):
        _, _, found = suppress_overlaps(boxes, scores, np.array([labels]), 0.5, 5)
        assert (to_numpy(found) >= 0).sum() == count


@pytest.mark.only("tensorflow")  # JAX compiles both with XLA wherever they are used.
def test_matching_and_suppression_compile_under_xla():
    import tensorflow as tf

    generator = np.random.default_rng(0)
    anchors, boxes = _random_boxes(generator, 60), _random_boxes(generator, 4, 30)
    scores = generator.integers(0, 10, (4, 30)).astype("float32") / 10
    labels = generator.integers(-1, 3, (4, 30)).astype("int32")

    def both(boxes, scores, labels):
        return match_anchors(anchors, boxes, labels), *suppress_overlaps(
            boxes, scores, labels, 0.3, 12
        )

    compiled = tf.function(both, jit_compile=True)
    arguments = [tf.constant(each) for each in (boxes, scores, labels)]
    for found, expected in zip(compiled(*arguments), both(*arguments), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.shape.is_fully_defined()


# The head


def test_head_is_the_same_on_every_level():
    """Against plain convolutions, a level at a time."""
    maps = {"P3": random_array(2, 4, 6, 5), "P4": random_array(2, 2, 3, 5, seed=1)}
    head = RetinaNetHead(3, anchors_per_position=2, channels=4, depth=2)
    head.build({level: each.shape for level, each in maps.items()})
    randomize(head)
    outputs = head(maps)
    for name, numbers in ("class", 3), ("box", 4):
        weights = [to_numpy(variable) for variable in head.weights if f"/{name}_" in variable.path]
        expected = []
        for level in ("P3", "P4"):
            each = maps[level]
            for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
                each = to_numpy(keras.ops.conv(each, kernel, padding="same")) + bias
                each = each if kernel is weights[-2] else np.maximum(each, 0)
            expected.append(each.reshape(2, -1, numbers))
        found = outputs["logits" if name == "class" else "deltas"]
        assert difference(found, np.concatenate(expected, axis=1)) <= 1e-5


def test_head_starts_at_the_prior():
    """Every anchor's probability of every class is about 0.01, and every box its anchor."""
    head = RetinaNetHead(7)
    outputs = head({"P3": random_array(1, 4, 4, 256)})
    probabilities = 1 / (1 + np.exp(-to_numpy(outputs["logits"])))
    assert np.abs(probabilities - 0.01).max() < 1e-3
    assert np.abs(to_numpy(outputs["deltas"])).max() < 0.1
