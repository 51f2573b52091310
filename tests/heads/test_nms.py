"""Non-maximum suppression against the greedy definition."""

import numpy as np
import pytest

from keras_spm.heads import Matcher, nms, non_max_suppression
from tests.heads.boxes import greedy_suppression, random_boxes
from tests.helpers import to_numpy


def _cases(seed):
    """Returns (boxes, scores, labels, the indices to keep, by case)."""
    generator = np.random.default_rng(seed)
    boxes = random_boxes(generator, 200, 30)
    # Multiples of 0.1, so that many are equal; a tenth of the entries is padding.
    scores = generator.integers(0, 10, (200, 30)).astype("float32") / 10
    scores[0] = 0
    labels = generator.integers(0, 3, (200, 30)).astype("int32")
    cases = zip(boxes, scores, labels, strict=True)
    return boxes, scores, labels, [greedy_suppression(*case, 0.3, 30) for case in cases]


@pytest.mark.parametrize("max_detections", [1, 12, 40])
@pytest.mark.parametrize("tile", [256, 8])
def test_suppression_is_the_definition(tile, max_detections, monkeypatch):
    """In one tile and in several, with fewer and with more detections than boxes: 1,200 cases."""
    monkeypatch.setattr(nms, "_TILE", tile)
    boxes, scores, labels, kept_indices = _cases(seed=tile + max_detections)
    found = map(to_numpy, non_max_suppression(boxes, scores, labels, 0.3, max_detections))
    for case, (found_boxes, found_scores, found_labels) in enumerate(zip(*found, strict=True)):
        kept = kept_indices[case][:max_detections]
        count = len(kept)
        assert len(found_labels) == max_detections
        assert (found_boxes[:count] == boxes[case][kept]).all()
        assert (found_scores[:count] == scores[case][kept]).all()
        assert (found_labels[:count] == labels[case][kept]).all()
        assert (found_labels[count:] == -1).all()
        assert not found_scores[count:].any() and not found_boxes[count:].any()


def test_long_chains_of_suppression(monkeypatch):
    """Each box overlaps the next one: every second one is kept."""
    monkeypatch.setattr(nms, "_TILE", 8)
    start = np.arange(40, dtype="float32")
    boxes = np.stack([start, 0 * start, start + 1.9, 0 * start + 1], axis=-1)[None]
    scores = np.linspace(1, 0.5, 40, dtype="float32")[None]
    found, _, labels = non_max_suppression(boxes, scores, np.zeros((1, 40), "int32"), 0.2, 30)
    assert (to_numpy(labels) == 0).sum() == 20
    assert to_numpy(found)[0, :20, 0].tolist() == start[::2].tolist()


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 10]]], "float32")
    scores = np.array([[0.9, 0.8]], "float32")
    for labels, count in ([0, 1], 2), ([1, 1], 1):
        _, _, found = non_max_suppression(boxes, scores, np.array([labels]), 0.5, 5)
        assert (to_numpy(found) >= 0).sum() == count


@pytest.mark.parametrize("tile", [256, 8])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, -1.0])
def test_scores_that_are_no_numbers_are_padding(bad, tile, monkeypatch):
    """They are more than a tile, and before, between and after the others."""
    monkeypatch.setattr(nms, "_TILE", tile)
    boxes, scores, labels, kept_indices = _cases(seed=0)
    boxes, labels = (np.repeat(each[1:9], 2, axis=1) for each in (boxes, labels))
    scores = np.stack([np.full_like(scores[1:9], bad), scores[1:9]], axis=2).reshape(8, 60)
    found = map(to_numpy, non_max_suppression(boxes, scores, labels, 0.3, 40))
    for case, (found_boxes, found_scores, found_labels) in enumerate(zip(*found, strict=True)):
        kept = 2 * np.array(kept_indices[1 + case]) + 1
        assert (found_boxes[: len(kept)] == boxes[case][kept]).all()
        assert (found_scores[: len(kept)] == scores[case][kept]).all()
        assert (found_labels[: len(kept)] == labels[case][kept]).all()
        assert (found_labels[len(kept) :] == -1).all()


def test_infinite_scores_come_first_and_boxes_that_are_no_numbers_suppress_nothing():
    boxes = np.float32([[[0, 0, 9, 9], [0, 0, 9, 9], [np.nan] * 4, [20, 20, np.inf, 30]]])
    scores = np.float32([[0.5, np.inf, 0.9, 0.1]])
    _, scores, labels = non_max_suppression(boxes, scores, np.zeros((1, 4), "int32"), 0.5, 4)
    assert to_numpy(scores).tolist() == [[np.inf, *np.float32([0.9, 0.1]), 0]]
    assert to_numpy(labels).tolist() == [[0, 0, 0, -1]]


def test_ten_thousand_proposals():
    """Those of five levels, which overlap much: as many iterations as there can be."""
    generator = np.random.default_rng(0)
    centers = generator.uniform(0, 50, (1, 10000, 2))
    sides = np.exp(generator.normal(3.5, 0.2, (1, 10000, 2)))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1).astype("float32")
    scores = generator.permutation(np.linspace(1, 0.1, 10000, dtype="float32"))[None]
    labels = np.repeat(np.arange(2, 7, dtype="int32"), 2000)[None]
    found, _, _ = map(to_numpy, non_max_suppression(boxes, scores, labels, 0.7, 1000))
    order = np.argsort(-scores[0])
    sorted_boxes, sorted_labels, kept = boxes[0][order].astype("float64"), labels[0][order], []
    areas = (sorted_boxes[:, 2:] - sorted_boxes[:, :2]).prod(axis=1)
    for index in range(10000):
        if len(kept) == 1000:
            break
        starts = np.maximum(sorted_boxes[kept, :2], sorted_boxes[index, :2])
        ends = np.minimum(sorted_boxes[kept, 2:], sorted_boxes[index, 2:])
        intersections = (ends - starts).clip(0).prod(axis=1)
        overlaps = intersections / (areas[kept] + areas[index] - intersections)
        if not (overlaps[sorted_labels[kept] == sorted_labels[index]] > 0.7).any():
            kept.append(index)
    assert len(kept) == 1000 and index > 1500
    assert (found[0] == sorted_boxes[kept]).all()


def test_no_boxes():
    empty = np.zeros((2, 0), "float32")
    found = non_max_suppression(
        np.zeros((2, 0, 4), "float32"), empty, empty.astype("int32"), 0.5, 3
    )
    assert [tuple(each.shape) for each in found] == [(2, 3, 4), (2, 3), (2, 3)]
    assert (to_numpy(found[2]) == -1).all()


@pytest.mark.graph
@pytest.mark.only("tensorflow")  # JAX always compiles both with XLA.
@pytest.mark.parametrize("tile", [256, 8])
def test_matching_and_suppression_compile_with_xla(tile, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(nms, "_TILE", tile)
    generator = np.random.default_rng(0)
    anchors, boxes = random_boxes(generator, 60), random_boxes(generator, 4, 30)
    scores = generator.integers(0, 10, (4, 30)).astype("float32") / 10
    labels = generator.integers(-1, 3, (4, 30)).astype("int32")

    def both(boxes, scores, labels):
        matches = Matcher(0.5, 0.4)(anchors, boxes, labels)
        return matches, *non_max_suppression(boxes, scores, labels, 0.3, 12)

    compiled = tf.function(both, jit_compile=True)
    arguments = [tf.constant(each) for each in (boxes, scores, labels)]
    for found, expected in zip(compiled(*arguments), both(*arguments), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.shape.is_fully_defined()
