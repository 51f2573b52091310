"""Segmentation metrics against their definitions, over several batches."""

import keras
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from keras_spm.metrics import MeanIoU, PixelAccuracy
from tests.helpers import to_numpy

CLASSES = 5


def _batches():
    """Yields labels with ignored pixels, and logits; class 3 never occurs."""
    generator = np.random.default_rng(0)
    for count in (3, 2):
        labels = generator.choice([0, 1, 2, 4, 255], (count, 8, 6))
        logits = generator.normal(size=(count, 8, 6, CLASSES)).astype("float32")
        logits[..., 3] = -10
        yield labels, logits


def _counts():
    pairs = [(labels.ravel(), logits.argmax(-1).ravel()) for labels, logits in _batches()]
    labels, predictions = map(np.concatenate, zip(*pairs, strict=True))
    return confusion_matrix(labels[labels != 255], predictions[labels != 255], labels=range(5))


def _update(metric):
    for labels, logits in _batches():
        metric.update_state(labels, logits)
    return metric


def test_mean_iou_is_over_all_batches():
    counts = _counts()
    intersection = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - intersection
    metric = _update(MeanIoU(CLASSES, ignore_class=255))
    present = union > 0
    assert present.sum() == 4
    assert to_numpy(metric.result()) == pytest.approx(
        (intersection / union.clip(1))[present].mean()
    )
    assert to_numpy(metric.per_class()) == pytest.approx(intersection / union.clip(1))


@pytest.mark.parametrize("ignore_class", [None, 2, 255])
def test_update_on_host_equals_update_state(ignore_class):
    expected, found = (MeanIoU(CLASSES, ignore_class) for _ in range(2))
    for labels, logits in _batches():
        expected.update_state(labels, logits)
        for segmentation_map, each in zip(labels.astype("uint8"), logits, strict=True):
            found.update_on_host(segmentation_map, each.argmax(-1))
    assert expected.confusion_matrix().sum() > 0
    np.testing.assert_array_equal(found.confusion_matrix(), expected.confusion_matrix())


def test_counts_beyond_32_bits():
    metric = _update(MeanIoU(CLASSES, ignore_class=255))
    expected = metric.confusion_matrix() + 7 * 2**24 + 2**24 - 1
    metric.low.assign(metric.low + (2**24 - 1))
    metric.high.assign_add(np.full((CLASSES, CLASSES), 7))
    _update(metric)
    expected += _counts()
    np.testing.assert_array_equal(metric.confusion_matrix(), expected)
    assert to_numpy(metric.low).max() < 2**24
    intersection = np.diag(expected)
    union = expected.sum(0) + expected.sum(1) - intersection
    assert to_numpy(metric.per_class()) == pytest.approx(intersection / union, rel=1e-6)


def test_pixel_accuracy_ignores_pixels():
    counts = _counts()
    metric = _update(PixelAccuracy(ignore_class=255))
    assert to_numpy(metric.result()) == pytest.approx(np.trace(counts) / counts.sum())
    labels, logits = next(_batches())
    metric = PixelAccuracy()
    metric.update_state(labels, logits)
    assert to_numpy(metric.result()) == pytest.approx((labels == logits.argmax(-1)).mean())


@pytest.mark.parametrize("metric", [MeanIoU(CLASSES, 255), PixelAccuracy(255), PixelAccuracy()])
def test_metrics_survive_serialization(metric):
    saved = keras.saving.serialize_keras_object(metric)
    again = keras.saving.deserialize_keras_object(saved)
    assert type(again) is type(metric) and again.get_config() == metric.get_config()
    assert to_numpy(_update(again).result()) == to_numpy(_update(metric).result())
