"""Box coding against its definition, box by box, in float64."""

import numpy as np
from keras import ops

from keras_spm.heads.box_coder import decode_boxes
from keras_spm.heads.box_coder import encode_boxes
from tests.helpers import to_numpy
from tests.losses.differences import central_differences
from tests.losses.differences import value_and_gradient


def _boxes(*shape, seed=0):
    generator = np.random.default_rng(seed)
    start = generator.uniform(0, 80, (*shape, 2))
    return np.concatenate([start, start + generator.uniform(2, 60, (*shape, 2))], -1)


def _encoded(anchor, box):
    sides, own = (each[2:] - each[:2] for each in (box, anchor))
    way = (box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2
    return np.concatenate([way / own, np.log(sides / own)])


def _decoded(anchors, deltas):
    own = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[..., :2] * own
    sides = own * np.exp(np.minimum(deltas[..., 2:], np.log(62.5)))
    return np.concatenate([centers - sides / 2, centers + sides / 2], -1)


def test_encoding_is_the_definition():
    anchors, boxes = _boxes(50), _boxes(3, 50, seed=1)
    expected = [[_encoded(*pair) for pair in zip(anchors, each, strict=True)] for each in boxes]
    found = to_numpy(encode_boxes(anchors.astype("float32"), boxes.astype("float32")))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_place_without_object_is_finite():
    anchors = _boxes(4).astype("float32")
    assert np.isfinite(to_numpy(encode_boxes(anchors, np.zeros((1, 4, 4), "float32")))).all()


def test_decoding_and_its_gradient_are_the_definitions():
    anchors = _boxes(30)
    deltas = np.random.default_rng(2).normal(0, 1, (2, 30, 4))
    deltas[0, 0] = [0, 0, 5, 50]  # Beyond the largest growth.
    weights = np.array([1.0, 2, 3, 5])  # Of equal ones left and right would cancel.
    value, gradient = value_and_gradient(
        lambda each: ops.multiply(decode_boxes(anchors.astype("float32"), each), weights),
        deltas.astype("float32"),
    )
    np.testing.assert_allclose(value, _decoded(anchors, deltas) * weights, rtol=1e-5, atol=1e-3)
    expected = central_differences(lambda each: _decoded(anchors, each) * weights, deltas)
    assert not gradient[0, 0, 2:].any()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


def test_decoding_undoes_encoding():
    anchors, boxes = _boxes(50).astype("float32"), _boxes(3, 50, seed=1).astype("float32")
    found = to_numpy(decode_boxes(anchors, encode_boxes(anchors, boxes)))
    np.testing.assert_allclose(found, boxes, atol=1e-4, rtol=0)
