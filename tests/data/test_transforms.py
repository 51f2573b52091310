"""Geometric transforms: all fields of an example move together."""

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import DetectionBatching, DigitScenes, ImageBatching
from keras_spm.data.transforms import crop, horizontal_flip, pad, resize

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

HEIGHT, WIDTH = 24, 36


def _mask(box, height=HEIGHT, width=WIDTH):
    """The mask of a box with whole coordinates."""
    left, top, right, bottom = np.asarray(box).astype(int)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def _example():
    """Objects whose masks are their boxes, drawn into the image and the segmentation map."""
    boxes = np.array([[3, 6, 18, 15], [21, 0, 36, 9], [6, 18, 12, 24]], "float64")
    masks = np.stack([_mask(box) for box in boxes])
    labels = np.array([4, 2, 7])
    segmentation_map = (masks * labels[:, None, None]).max(0).astype("uint8")
    return {
        "image": np.repeat(segmentation_map[..., None], 3, axis=-1),
        "image_id": "a",
        "boxes": boxes,
        "labels": labels,
        "crowd": np.array([False, True, False]),
        "areas": np.array([5.0, 6.0, 7.0]),
        "masks": masks,
        "segmentation_map": segmentation_map,
    }


def _assert_consistent(example):
    height, width = example["segmentation_map"].shape
    expected = [_mask(box, height, width) for box in example["boxes"]]
    np.testing.assert_array_equal(
        example["masks"], np.reshape(expected, (len(expected), height, width))
    )
    assert example["masks"].dtype == bool and example["image_id"] == "a"
    pixels = (example["masks"] * example["labels"][:, None, None]).max(0, initial=0)
    np.testing.assert_array_equal(example["segmentation_map"], pixels)
    np.testing.assert_array_equal(example["image"], np.repeat(pixels[..., None], 3, axis=-1))


def test_horizontal_flip():
    flipped = horizontal_flip(_example())
    _assert_consistent(flipped)
    assert flipped["boxes"].tolist() == [[18, 6, 33, 15], [0, 0, 15, 9], [24, 18, 30, 24]]
    for name, values in horizontal_flip(flipped).items():
        np.testing.assert_array_equal(values, _example()[name])


@pytest.mark.parametrize("size", [(48, 72), (8, 12), (24, 72), (48, 12)])
def test_resize(size):
    resized = resize(_example(), size, "nearest")
    _assert_consistent(resized)
    assert resized["image"].shape == (*size, 3)
    scale = [size[1] / WIDTH, size[0] / HEIGHT] * 2
    np.testing.assert_allclose(resized["boxes"], _example()["boxes"] * scale, rtol=1e-6)
    smooth = resize(_example(), size)["image"]
    expected = Image.fromarray(_example()["image"]).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(smooth, np.asarray(expected))


def test_crop_clips_boxes_and_removes_objects():
    cropped = crop(_example(), (6, 3, 30, 12))
    _assert_consistent(cropped)
    assert cropped["boxes"].tolist() == [[0, 3, 12, 9], [15, 0, 24, 6]]
    assert cropped["labels"].tolist() == [4, 2] and cropped["crowd"].tolist() == [False, True]
    assert cropped["areas"].tolist() == [5, 6]
    nothing = crop(_example(), (0, 0, 3, 24))
    _assert_consistent(nothing)
    assert nothing["boxes"].shape == (0, 4) and nothing["masks"].shape == (0, 24, 3)


def test_crop_removes_objects_without_visible_pixels():
    example = _example()
    example["masks"][0, :, :9] = False
    assert crop(example, (0, 0, 9, 24))["labels"].tolist() == [7]
    del example["masks"]
    assert crop(example, (0, 0, 9, 24))["labels"].tolist() == [4, 7]


def test_maps_of_more_than_256_classes():
    segmentation_map = np.random.default_rng(0).integers(0, 1000, (HEIGHT, WIDTH))
    example = {**_example(), "segmentation_map": segmentation_map}
    resized = resize(example, (2 * HEIGHT, 2 * WIDTH))["segmentation_map"]
    np.testing.assert_array_equal(resized, segmentation_map.repeat(2, 0).repeat(2, 1))


def test_pad():
    example = _example()
    padded = pad(example, (32, 40), (1, 2, 3), segmentation_fill=9)
    for name in ("image", "segmentation_map"):
        np.testing.assert_array_equal(padded[name][:HEIGHT, :WIDTH], example[name])
    np.testing.assert_array_equal(padded["masks"], [_mask(box, 32, 40) for box in padded["boxes"]])
    assert (padded["image"][HEIGHT:] == (1, 2, 3)).all()
    assert (padded["image"][:, WIDTH:] == (1, 2, 3)).all()
    assert (padded["segmentation_map"][HEIGHT:] == 9).all()
    assert (pad(example, (32, 40))["segmentation_map"][:, WIDTH:] == 255).all()


def test_inputs_are_unchanged(tmp_path):
    example = _example()
    path = tmp_path / "image.png"
    Image.fromarray(example["image"]).save(path)
    for transform in (
        horizontal_flip,
        lambda each: resize(each, (48, 72), "nearest"),
        lambda each: crop(each, (6, 3, 30, 12)),
    ):
        _assert_consistent(transform({**example, "image": path}))  # Files are read.
        transform(example)
        for name, values in _example().items():
            np.testing.assert_array_equal(example[name], values)


def test_batches_have_masks():
    images, targets = DetectionBatching(ImageBatching(48, size_divisor=50), 4)([_example()] * 2)
    assert images.shape == (2, 50, 100, 3) and targets["masks"].shape == (2, 4, 50, 100)
    expected = [_mask(2 * box, 50, 100) for box in _example()["boxes"]]
    np.testing.assert_array_equal(targets["masks"][1, :3], expected)
    assert not targets["masks"][:, 3].any()
    scenes = [DigitScenes("train", 1, 64, masks=False)[0]]
    assert "masks" not in DetectionBatching(ImageBatching())(scenes)[1]
