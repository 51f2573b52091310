"""Digits in memory, and their pipeline."""

import numpy as np
import pytest
from sklearn.datasets import load_digits as scans

from keras_spm.data import load_dataset
from keras_spm.data.pipeline import training_batches
from keras_spm.data.transforms import random_affine


def test_digits_are_split_in_stratified_parts():
    splits = load_dataset("digits")
    counts = [len(split.labels) for split in (splits.train, splits.validation, splits.test)]
    assert sum(counts) == 1797
    assert [count / 1797 for count in counts] == pytest.approx([0.7, 0.1, 0.2], abs=0.001)
    for split in (splits.train, splits.validation, splits.test):
        assert split.images.dtype == "uint8" and split.images.shape[1:] == (32, 32, 3)
        shares = np.bincount(split.labels) / len(split.labels)
        assert np.abs(shares - np.bincount(scans().target) / 1797).max() < 0.01
    images = np.concatenate([split.images for split in splits[:3]])
    labels = np.concatenate([split.labels for split in splits[:3]])
    assert sorted(labels) == sorted(scans().target)
    # The mean of a resized scan is near the mean of the scan.
    levels = np.sort(scans().images.sum((1, 2)))
    assert np.abs(np.sort(images[..., 0].mean((1, 2)) * 64 * 16 / 255) - levels).max() < 12
    again = load_dataset("digits")
    assert (again.test.images == splits.test.images).all()


def test_unknown_data_set_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        load_dataset("digit")


def test_epochs_have_every_example_once_and_are_reproducible():
    examples = load_dataset("digits").validation
    numbered = examples._replace(labels=np.arange(len(examples.labels)))

    def epochs(seed):
        data, steps = training_batches(
            numbered, 16, 3, seed, rotation=10, zoom=0.1, translation=0.1
        )
        batches = list(data)
        assert len(batches) == 3 * steps == 3 * (len(numbered.labels) // 16)
        return [batches[epoch * steps : (epoch + 1) * steps] for epoch in range(3)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    orders = [np.concatenate([labels for _, labels in epoch]).tolist() for epoch in first]
    assert all(len(set(order)) == len(order) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert (first[2][1][0] == again[2][1][0]).all()
    assert orders[0] != np.concatenate([labels for _, labels in other[0]]).tolist()
    # The same example looks different in another epoch.
    looks = [
        dict(zip(np.concatenate([b[1] for b in e]), np.concatenate([b[0] for b in e]), strict=True))
        for e in first
    ]
    shared = next(iter(set(looks[0]) & set(looks[1])))
    assert (looks[0][shared] != looks[1][shared]).any()


@pytest.mark.parametrize("batch_size", [0, 181])
def test_batch_size_is_checked(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        training_batches(load_dataset("digits").validation, batch_size, 1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "value"), [("rotation", -1), ("zoom", 1), ("translation", 1.5), ("epochs", 0)]
)
def test_ranges_are_checked(name, value):
    arguments = {"epochs": 1, "rotation": 0, "zoom": 0, "translation": 0, name: value}
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        training_batches(load_dataset("digits").validation, 16, seed=0, **arguments)


def test_random_affine_against_known_positions():
    image = np.zeros((33, 33, 3), "uint8")
    image[16, 20] = 255  # Four pixels right of the center.

    class Fixed:
        def __init__(self, angle, zoom, shift):
            self.values = iter([angle, zoom, np.array(shift)])

        def uniform(self, low, high, size=None):
            return next(self.values)

    def brightest(**changes):
        moved = random_affine(image, Fixed(**changes), 90, 1, 1)
        return np.unravel_index(moved[..., 0].argmax(), (33, 33))

    assert brightest(angle=0, zoom=0, shift=(0, 0)) == (16, 20)
    assert brightest(angle=0, zoom=0, shift=(3 / 33, -2 / 33)) == (14, 23)
    assert brightest(angle=90, zoom=0, shift=(0, 0)) == (20, 16)
    assert brightest(angle=0, zoom=1, shift=(0, 0)) == (16, 24)
