"""Box losses against NumPy in float64, and its central differences."""

import keras
import numpy as np
import pytest

from keras_spm.losses import generalized_iou_loss, l1_loss, smooth_l1_loss
from tests.helpers import to_numpy
from tests.losses.differences import central_differences, value_and_gradient

FORMATS = [
    *("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw"),
    *("rel_xyxy", "rel_yxyx", "rel_xywh", "rel_center_xywh"),
]


def _l1(targets, predictions):
    return np.abs(predictions - targets).sum(-1)


def _smooth_l1(targets, predictions, beta):
    distances = np.abs(predictions - targets)
    return np.where(distances < beta, distances**2 / (2 * beta), distances - beta / 2).sum(-1)


def _generalized_iou(targets, predictions):
    """Computes box by box; boxes are left, top, right, bottom."""
    losses = np.empty(targets.shape[:-1])
    for index in np.ndindex(losses.shape):
        left, top, right, bottom = targets[index]
        others_left, others_top, others_right, others_bottom = predictions[index]
        intersection = max(0, min(right, others_right) - max(left, others_left)) * max(
            0, min(bottom, others_bottom) - max(top, others_top)
        )
        union = (right - left) * (bottom - top) - intersection
        union += (others_right - others_left) * (others_bottom - others_top)
        enclosing = (max(right, others_right) - min(left, others_left)) * (
            max(bottom, others_bottom) - min(top, others_top)
        )
        losses[index] = 1 - (intersection / union - (enclosing - union) / enclosing)
    return losses


def _numbers():
    generator = np.random.default_rng(0)
    return generator.normal(0, 0.2, (2, 6, 9, 4)).astype("float32")


def _boxes(size=(100, 80)):
    """Returns targets and predictions: disjoint, overlapping and nested boxes."""
    generator = np.random.default_rng(0)
    start = generator.uniform(0, 0.6, (2, 6, 9, 2))
    sides = generator.uniform(0.02, 0.4, start.shape)
    size = np.array(size)
    return np.concatenate([start * size, (start + sides) * size], -1).astype("float32")


def test_l1():
    targets, predictions = _numbers()
    value, gradient = value_and_gradient(lambda each: l1_loss(targets, each), predictions)
    np.testing.assert_allclose(value, _l1(targets, predictions.astype("float64")), rtol=1e-6)
    np.testing.assert_array_equal(gradient, np.sign(predictions - targets))


@pytest.mark.parametrize("beta", [1 / 9, 1.0, 1e-30])
def test_smooth_l1(beta):
    targets, predictions = _numbers()
    predictions[0, 0] = targets[0, 0]
    predictions[0, 1] = targets[0, 1] + np.float32(beta)
    value, gradient = value_and_gradient(
        lambda each: smooth_l1_loss(targets, each, beta), predictions
    )
    wide = predictions.astype("float64")
    np.testing.assert_allclose(value, _smooth_l1(targets, wide, beta), rtol=1e-5)
    expected = np.clip((wide - targets) / beta, -1, 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    if beta > 1e-3:
        differences = central_differences(lambda each: _smooth_l1(targets, each, beta), wide)
        np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)


def test_smooth_l1_without_beta_is_l1():
    targets, predictions = _numbers()
    predictions[0, 0] = targets[0, 0]
    smooth = value_and_gradient(lambda each: smooth_l1_loss(targets, each, beta=0), predictions)
    plain = value_and_gradient(lambda each: l1_loss(targets, each), predictions)
    np.testing.assert_array_equal(smooth[0], plain[0])
    np.testing.assert_array_equal(smooth[1], plain[1])
    np.testing.assert_array_equal(smooth[1], np.sign(predictions - targets))


def test_negative_beta():
    with pytest.raises(ValueError, match="`beta` must be at least 0. Received: beta=-1"):
        smooth_l1_loss(np.zeros(4), np.zeros(4), beta=-1)


def test_generalized_iou():
    targets, predictions = _boxes()
    value, gradient = value_and_gradient(
        lambda each: generalized_iou_loss(targets, each, "xyxy"), predictions
    )
    expected = _generalized_iou(targets.astype("float64"), predictions.astype("float64"))
    # Some pairs are disjoint and some overlap.
    assert (expected > 1).any() and (expected < 0.8).any()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    differences = central_differences(lambda each: _generalized_iou(targets, each), predictions)
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)


def test_generalized_iou_by_hand():
    """Unit squares: identical, half overlapping, adjacent, and disjoint."""
    targets = np.array([[0, 0, 1, 1]] * 4, "float32")
    predictions = np.array([[0, 0, 1, 1], [0.5, 0, 1.5, 1], [1, 0, 2, 1], [2, 0, 3, 1]], "float32")
    loss = to_numpy(generalized_iou_loss(targets, predictions, "xyxy"))
    np.testing.assert_allclose(loss, [0, 1 - 1 / 3, 1, 1 + 1 / 3], atol=1e-6)


@pytest.mark.parametrize("bounding_box_format", FORMATS)
def test_generalized_iou_formats(bounding_box_format):
    targets, predictions = _boxes()
    expected = _generalized_iou(targets.astype("float64"), predictions.astype("float64"))
    targets, predictions = (
        to_numpy(
            keras.utils.bounding_boxes.convert_format(
                each, "xyxy", bounding_box_format, height=80, width=100
            )
        )
        for each in (targets, predictions)
    )
    loss = to_numpy(generalized_iou_loss(targets, predictions, bounding_box_format))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_corners_may_come_in_either_order():
    targets, predictions = _boxes()
    expected = to_numpy(generalized_iou_loss(targets, predictions, "xyxy"))
    swapped = predictions[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(generalized_iou_loss(targets, swapped, "xyxy"), expected)


@pytest.mark.parametrize("size", [1e-20, 1e-12, 1e-6, 1.0, 1e5])
def test_boxes_without_area(size):
    point, line, square = [0.3, 0.3, 0.3, 0.3], [0.1, 0.3, 0.6, 0.3], [0.2, 0.2, 0.7, 0.7]
    boxes = np.array([point, line, square, [0, 0, 0, 0]], "float32") * np.float32(size)
    targets, predictions = np.repeat(boxes, 4, axis=0), np.tile(boxes, (4, 1))
    value, gradient = value_and_gradient(
        lambda each: generalized_iou_loss(targets, each, "xyxy"), predictions
    )
    assert ((value >= 0) & (value <= 2)).all()
    assert np.isfinite(gradient).all()


LOSSES = {
    "l1": l1_loss,
    "smooth_l1": smooth_l1_loss,
    "generalized_iou": lambda *boxes: generalized_iou_loss(*boxes, "xyxy"),
}


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_are_computed_in_float32(loss, dtype):
    targets, predictions = _boxes().astype(dtype)
    value = to_numpy(loss(targets, predictions))
    assert value.dtype == "float32" and value.shape == (6, 9)
    expected = to_numpy(loss(targets.astype("float32"), predictions.astype("float32")))
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_of_half_precision_are_finite(loss):
    targets, predictions = _boxes(size=(60000, 60000)).astype("float16")
    _, gradient = value_and_gradient(lambda each: loss(targets, each), predictions)
    assert gradient.dtype == "float16" and np.isfinite(gradient).all()
