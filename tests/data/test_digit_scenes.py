"""Scenes of digits: images, masks, boxes and segmentation maps are consistent."""

import numpy as np
import pytest

from keras_spm.data import DigitScenes, load_digits
from keras_spm.data.digits import LabeledImages

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


@pytest.fixture(scope="module")
def scenes():
    return list(DigitScenes("test", 40, 128))


def test_segmentation_map_masks_and_boxes_agree(scenes):
    for scene in scenes:
        count = len(scene["labels"])
        assert scene["image"].shape == (128, 128, 3) and scene["image"].dtype == np.uint8
        assert scene["masks"].shape == (count, 128, 128) and scene["boxes"].shape == (count, 4)
        assert 2 <= count <= 7
        assert (scene["masks"].sum(0) <= 1).all()  # Masks do not overlap.
        by_mask = (scene["masks"] * (scene["labels"] + 1)[:, None, None]).sum(0)
        np.testing.assert_array_equal(scene["segmentation_map"], by_mask)
        for mask, (left, top, right, bottom) in zip(scene["masks"], scene["boxes"], strict=True):
            rows, columns = np.nonzero(mask)
            assert (left, right) == (columns.min(), columns.max() + 1)
            assert (top, bottom) == (rows.min(), rows.max() + 1)


def test_scenes_depend_on_split_and_index(scenes):
    again = DigitScenes("test", 5, 128)
    for index in (3, 0):
        for name, values in scenes[index].items():
            np.testing.assert_array_equal(again[index][name], values)
    assert (DigitScenes("train", 5, 128)[0]["image"] != scenes[0]["image"]).any()
    assert len(again) == 5
    with pytest.raises(IndexError):
        again[5]
    with pytest.raises(ValueError, match="Did you mean 'train'"):
        DigitScenes("training", 5)


def test_scenes_are_varied(scenes):
    labels = np.concatenate([scene["labels"] for scene in scenes])
    assert set(labels) == set(range(10))
    heights = np.concatenate([scene["boxes"][:, 3] - scene["boxes"][:, 1] for scene in scenes])
    assert max(heights) > 1.7 * min(heights)
    assert np.mean([_any_overlap(scene["boxes"]) for scene in scenes]) > 0.5


def _any_overlap(boxes):
    start = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return np.triu((end > start).all(-1), 1).any()


def test_scenes_use_the_digits_of_their_split(monkeypatch):
    """With one digit per split, all scenes of a split have that digit."""
    digits = load_digits()
    splits = {
        split: LabeledImages(images, np.full(len(images), label))
        for label, (split, (images, _)) in enumerate(
            (split, getattr(digits, split)) for split in ("train", "validation", "test")
        )
    }
    monkeypatch.setattr("keras_spm.data.digit_scenes._splits", lambda: digits._replace(**splits))
    for label, split in enumerate(splits):
        for scene in DigitScenes(split, 3, 64):
            assert set(scene["labels"]) == {label}


def test_no_digit_is_in_two_splits():
    splits = load_digits()[:3]
    scans = [{image.tobytes() for image in split.images} for split in splits]
    assert not (scans[0] & scans[1] or scans[0] & scans[2] or scans[1] & scans[2])
