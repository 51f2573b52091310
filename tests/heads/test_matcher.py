"""Matching and sampling against their definitions."""

import keras
import numpy as np
import pytest

from keras_spm.heads import BalancedSampler, Matcher
from keras_spm.heads.matcher import BACKGROUND, IGNORE
from tests.heads.boxes import matches_of
from tests.helpers import to_numpy


def _integer_boxes(generator, *shape):
    """Boxes whose overlaps are ratios of small integers, so that many are exactly equal."""
    start = generator.integers(0, 6, (*shape, 2))
    return np.concatenate([start, start + generator.integers(2, 7, (*shape, 2))], -1) * 1.0


@pytest.mark.parametrize(
    "arguments", [(0.5, 0.4, True), (0.7, 0.3, True), (0.5, 0.5, False), (0.7, 0.3, False)]
)
def test_matches_are_the_definition(arguments):
    generator = np.random.default_rng(0)
    candidates = _integer_boxes(generator, 30, 40)
    boxes = _integer_boxes(generator, 30, 5)
    labels = generator.integers(-1, 3, (30, 5))
    labels[:3] = -1
    matcher = Matcher(*arguments)
    expected = [
        matches_of(*each, *arguments) for each in zip(candidates, boxes, labels, strict=True)
    ]
    found = to_numpy(matcher(candidates.astype("float32"), boxes.astype("float32"), labels))
    assert {BACKGROUND, 0, 4} <= set(found.flat)
    assert (IGNORE in found) == (arguments[0] > arguments[1])
    np.testing.assert_array_equal(found, expected)
    # The same candidates for all images.
    expected = [
        matches_of(candidates[0], *each, *arguments) for each in zip(boxes, labels, strict=True)
    ]
    found = matcher(candidates[0].astype("float32"), boxes.astype("float32"), labels)
    np.testing.assert_array_equal(to_numpy(found), expected)


def test_all_candidates_that_tie_are_assigned_and_the_last_object_wins():
    matcher = Matcher(0.9, 0.4)
    candidates = np.float32([[0, 0, 4, 4], [4, 0, 8, 4], [20, 0, 24, 4], [2, 0, 6, 4]])
    boxes = np.float32([[[2, 0, 6, 4], [0, 0, 8, 4], [20, 0, 24, 4]]])
    # The first object's best candidate is the last one. The second object has an overlap of
    # one half with the first, second and last candidate.
    found = to_numpy(matcher(candidates, boxes, np.array([[0, 0, 0]])))
    assert found.tolist() == [[1, 1, 2, 1]]
    found = to_numpy(matcher(candidates, boxes[:, ::-1], np.array([[0, 0, 0]])))
    assert found.tolist() == [[1, 1, 0, 2]]


def test_low_quality_matches_have_a_threshold():
    candidates = np.float32([[0, 0, 4, 4], [10, 0, 14, 4]])
    boxes = np.float32([[[0, 0, 8, 4], [10, 0, 14, 12]]])  # Overlaps of 1/2 and 1/3.
    for threshold, expected in (0.3, [0, 1]), (0.4, [0, IGNORE]), (0.6, [IGNORE, IGNORE]):
        matcher = Matcher(0.7, 0.2, low_quality_threshold=threshold)
        assert to_numpy(matcher(candidates, boxes, np.array([[0, 0]]))).tolist() == [expected]


def test_objects_far_from_all_candidates_are_not_assigned():
    far = np.array([[[900, 900, 910, 910]]], "float32")
    candidates = _integer_boxes(np.random.default_rng(0), 9).astype("float32")
    assert (to_numpy(Matcher(0.5, 0.4)(candidates, far, np.array([[0]]))) == BACKGROUND).all()


@pytest.mark.parametrize("low_quality", [True, False])
def test_no_entry_for_an_object_is_all_background(low_quality):
    candidates = _integer_boxes(np.random.default_rng(0), 9).astype("float32")
    matcher = Matcher(0.5, 0.4, low_quality)
    found = to_numpy(matcher(candidates, np.zeros((2, 0, 4), "float32"), np.zeros((2, 0), "int32")))
    assert found.shape == (2, 9) and (found == BACKGROUND).all()
    _, sampled = map(to_numpy, BalancedSampler(4, 0.5, seed=0)(found))
    assert (sampled == BACKGROUND).all()


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ((0.4, 0.5), "`negative_threshold` must be .* at most 0.4. Received: .*=0.5"),
        ((1.1, 0.5), "`positive_threshold` must be .* at most 1. Received: .*=1.1"),
        ((0.5, 0.4, True, 2), "`low_quality_threshold` must be .* at most 1. Received: .*=2"),
        ((0.5, -0.1), "`negative_threshold` must be .* at least 0 .*=-0.1"),
    ],
)
def test_thresholds_must_be_in_order(thresholds, message):
    with pytest.raises(ValueError, match=message):
        Matcher(*thresholds)


# Sampling


def _random_matches():
    """Many positives, few, none; much background and little."""
    generator = np.random.default_rng(0)
    matches = generator.integers(-2, 3, (6, 50)).astype("int32")
    matches[1] = np.where(matches[1] >= 0, BACKGROUND, matches[1])
    matches[2, 1:] = np.where(matches[2, 1:] >= 0, IGNORE, matches[2, 1:])
    matches[3] = np.where(matches[3] == BACKGROUND, IGNORE, matches[3])
    matches[4, :45] = IGNORE
    matches[5] = IGNORE
    return matches


@pytest.mark.parametrize(
    ("num_samples", "positive_fraction"), [(12, 0.25), (16, 0.5), (8, 1.0), (8, 0.0), (60, 0.5)]
)
def test_samples(num_samples, positive_fraction):
    """Their numbers, also if there are fewer candidates; positives first; none twice."""
    matches = _random_matches()
    sampler = BalancedSampler(num_samples, positive_fraction, seed=0)
    indices, sampled = map(to_numpy, sampler(matches))
    assert indices.shape == sampled.shape == (6, num_samples)
    assert sampler.max_positives == int(num_samples * positive_fraction)
    for image in range(6):
        positives = min((matches[image] >= 0).sum(), sampler.max_positives)
        negatives = min((matches[image] == BACKGROUND).sum(), num_samples - positives)
        total = positives + negatives
        chosen = indices[image, :total]
        assert len(set(chosen)) == total
        assert (sampled[image, :total] == matches[image, chosen]).all()
        assert (sampled[image, :positives] >= 0).all()
        assert (sampled[image, positives:total] == BACKGROUND).all()
        assert (sampled[image, total:] == IGNORE).all() and not indices[image, total:].any()


def test_samples_are_random_and_seeded():
    matches = np.repeat([[0, 1, BACKGROUND, IGNORE]], [10, 10, 30, 10], axis=1).astype("int32")
    first, second = (to_numpy(BalancedSampler(12, 0.25, seed=7)(matches)[0]) for _ in range(2))
    assert (first == second).all()
    assert (to_numpy(BalancedSampler(12, 0.25, seed=8)(matches)[0]) != first).any()
    # 3 positives and 9 of the background, each candidate with the same probability.
    sampler = BalancedSampler(12, 0.25, seed=keras.random.SeedGenerator(0))
    chosen = np.concatenate([to_numpy(sampler(matches)[0])[0] for _ in range(200)])
    counts = np.bincount(chosen, minlength=60)
    for eligible, number in (slice(0, 20), 3), (slice(20, 50), 9):
        expected = 200 * number / len(counts[eligible])
        assert np.abs(counts[eligible] - expected).max() < 5 * expected**0.5
    assert not counts[50:].any()
