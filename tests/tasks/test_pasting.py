"""Pasting of masks against bilinear sampling at pixel centers, pixel by pixel."""

import time

import numpy as np
import pytest

from keras_spm.tasks.pasting import paste_masks

# Nothing here depends on the backend.
pytestmark = pytest.mark.only("torch")


def _sample(mask, row, column):
    """Linear interpolation in float64; cells outside the mask are 0."""
    value = 0.0
    for y in (int(np.floor(row)), int(np.floor(row)) + 1):
        for x in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
                value += (1 - abs(row - y)) * (1 - abs(column - x)) * mask[y, x]
    return value


def _values(mask, box, size):
    left, top, right, bottom = box.astype("float64")
    rows = (np.arange(size[0]) + 0.5 - top) / (bottom - top) * mask.shape[0] - 0.5
    columns = (np.arange(size[1]) + 0.5 - left) / (right - left) * mask.shape[1] - 0.5
    return np.array([[_sample(mask, row, column) for column in columns] for row in rows])


@pytest.mark.parametrize("threshold", [0.5, 0.1])
def test_pixels_are_bilinear_samples(threshold):
    """In boxes inside, over the borders and outside of the image, smaller than a pixel too."""
    generator = np.random.default_rng(0)
    masks = generator.random((24, 7, 7)).astype("float32")
    starts = generator.uniform(-12, 28, (24, 2))
    sides = np.exp(generator.uniform(np.log(0.3), np.log(60), (24, 2)))
    boxes = np.concatenate([starts, starts + sides], axis=1).astype("float32")
    pasted = paste_masks(masks, boxes, (24, 30), threshold)
    assert pasted.shape == (24, 24, 30) and pasted.dtype == bool
    assert pasted.any(axis=(1, 2)).sum() > 6
    for mask, box, found in zip(masks, boxes, pasted, strict=True):
        values = _values(mask, box, (24, 30))
        clear = np.abs(values - threshold) > 1e-4  # Than rounding.
        assert ((values >= threshold) == found)[clear].all()


def test_boxes_without_area_are_empty():
    boxes = np.float32([[3, 3, 3, 9], [5, 5, 2, 9], [np.nan] * 4, [0, 0, 8, 8]])
    pasted = paste_masks(np.ones((4, 28, 28), "float32"), boxes, (8, 8))
    assert not pasted[:3].any() and pasted[3].all()
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (5, 6)).shape == (0, 5, 6)


def test_time_of_a_full_image():
    """A hundred masks of a whole image take about a second."""
    masks = np.random.default_rng(0).random((100, 28, 28)).astype("float32")
    boxes = np.tile(np.float32([0, 0, 1333, 800]), (100, 1))
    start = time.process_time()
    paste_masks(masks, boxes, (800, 1333))
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("masks", "boxes", "size", "threshold", "message"),
    [
        ((2, 28, 28), (3, 4), (8, 8), 0.5, "`masks` must be .*masks, rows, columns"),
        ((28, 28), (28, 4), (8, 8), 0.5, "`masks` must be"),
        ((1, 28, 28), (1, 4), (8,), 0.5, "`size` must be"),
        ((1, 28, 28), (1, 4), (8, 8), 0, "`threshold` must be .* above 0"),
    ],
)
def test_bad_arguments(masks, boxes, size, threshold, message):
    with pytest.raises(ValueError, match=message):
        paste_masks(np.zeros(masks), np.zeros(boxes), size, threshold)
