"""Non-maximum suppression against the greedy definition."""

import functools

import numpy as np
import pytest

from keras_spm.heads import Matcher, nms, non_max_suppression
from tests.heads.boxes import greedy_suppression, random_boxes
from tests.helpers import to_numpy


@functools.cache
def _cases():
    """Returns (boxes, scores, labels, the indices to keep, by case)."""
    generator = np.random.default_rng(0)
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
    """In one tile and in several, with fewer and with more detections than boxes."""
    monkeypatch.setattr(nms, "_TILE", tile)
    boxes, scores, labels, kept_indices = _cases()
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
