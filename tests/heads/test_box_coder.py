"""Box encoding and decoding against their definition, box by box, in float64."""

import numpy as np
import pytest
from keras import ops

from keras_spm.heads import BoxCoder
from tests.helpers import to_numpy
from tests.losses.differences import central_differences, value_and_gradient

WEIGHTS = (0.1, 0.2, 0.3, 0.4)

coders = pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), WEIGHTS])


def _boxes(*shape, seed=0):
    generator = np.random.default_rng(seed)
    start = generator.uniform(0, 80, (*shape, 2))
    return np.concatenate([start, start + generator.uniform(2, 60, (*shape, 2))], -1)


def _encoded(anchor, box):
    box_sides, anchor_sides = (each[2:] - each[:2] for each in (box, anchor))
    offset = (box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2
    return np.concatenate([offset / anchor_sides, np.log(box_sides / anchor_sides)])


def _decoded(anchors, deltas):
    anchor_sides = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[..., :2] * anchor_sides
    sizes = anchor_sides * np.exp(np.minimum(deltas[..., 2:], np.log(62.5)))
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], -1)


@coders
def test_encode_is_the_definition(weights):
    anchors, boxes = _boxes(50), _boxes(3, 50, seed=1)
    expected = [[_encoded(*pair) for pair in zip(anchors, each, strict=True)] for each in boxes]
    found = BoxCoder(weights).encode(anchors.astype("float32"), boxes.astype("float32"))
    np.testing.assert_allclose(to_numpy(found) * weights, expected, rtol=1e-5, atol=1e-5)


def test_padding_is_encoded_as_finite_deltas():
    anchors = _boxes(4).astype("float32")
    found = BoxCoder().encode(anchors, np.zeros((1, 4, 4), "float32"))
    assert np.isfinite(to_numpy(found)).all()


@coders
def test_decode_and_its_gradient_are_the_definition(weights):
    anchors = _boxes(30)
    deltas = np.random.default_rng(2).normal(0, 1, (2, 30, 4))
    deltas[0, 0] = [0, 0, 5, 50]  # Beyond the clamp.
    deltas = deltas / weights
    cotangent = np.array([1.0, 2, 3, 5])  # With equal ones, left and right would cancel.
    value, gradient = value_and_gradient(
        lambda each: ops.multiply(
            BoxCoder(weights).decode(anchors.astype("float32"), each), cotangent
        ),
        deltas.astype("float32"),
    )

    def reference(deltas):
        return _decoded(anchors, deltas * weights) * cotangent

    np.testing.assert_allclose(value, reference(deltas), rtol=1e-5, atol=1e-3)
    assert not gradient[0, 0, 2:].any()
    expected = central_differences(reference, deltas)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


@coders
def test_decode_is_the_inverse_of_encode(weights):
    coder = BoxCoder(weights)
    anchors, boxes = _boxes(3, 50).astype("float32"), _boxes(3, 50, seed=1).astype("float32")
    found = to_numpy(coder.decode(anchors, coder.encode(anchors, boxes)))
    np.testing.assert_allclose(found, boxes, atol=1e-4, rtol=0)
