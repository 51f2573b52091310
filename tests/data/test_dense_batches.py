"""Batching and augmentation for dense tasks."""

import types

import keras
import numpy as np
import pytest
from PIL import Image

from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.data import DetectionBatching, DigitScenes, ImageBatching, SegmentationAugmentation
from keras_spm.data.pipeline import repeated_batches
from keras_spm.data.transforms import horizontal_flip


@pytest.fixture(scope="module")
def scene():
    return DigitScenes("train", 1, 96)[0]


def _bounds(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# Batching


def test_batches_keep_aspect_ratios_and_return_sizes():
    images = [np.full((*size, 3), 9, "uint8") for size in ((40, 100), (50, 20))]
    batch, geometries = ImageBatching(32, 64)(images)
    # Both are limited by their longer side.
    assert [each.resized for each in geometries] == [(26, 64), (64, 26)]
    assert batch.shape == (2, 64, 64, 3)
    assert (batch[0, :26] == 9).all() and (batch[0, 26:] == [124, 116, 104]).all()
    _, (geometry, _) = ImageBatching(32, 64, resize_to_divisor=True)(images)
    assert geometry.resized == (32, 64) and geometry.scale == (0.8, 0.64)
    # A divisor of at least the longer side gives all batches one size.
    assert {ImageBatching(32, 64, size_divisor=64)([each])[0].shape for each in images} == {
        (1, 64, 64, 3)
    }


def test_targets_are_scaled_with_their_images(scene):
    """The boxes of resized masks are the resized boxes."""
    fields = ("boxes", "labels", "crowd", "areas", "masks")
    half = {**scene, **{name: scene[name][:1] for name in fields}}
    batching = DetectionBatching(ImageBatching(192), max_objects=7, bounding_box_format="xywh")
    images, targets = batching([scene, half])
    count = len(scene["labels"])
    assert images.shape == (2, 192, 192, 3) and targets["boxes"].shape == (2, 7, 4)
    assert targets["labels"].tolist() == [
        [*scene["labels"], *[-1] * (7 - count)],
        [scene["labels"][0], *[-1] * 6],
    ]
    for box, mask, area in zip(
        targets["boxes"][0], scene["masks"], targets["areas"][0], strict=False
    ):
        left, top, right, bottom = _bounds(mask.repeat(2, 0).repeat(2, 1))
        assert box.tolist() == [left, top, right - left, bottom - top]
        assert area == mask.sum()
    assert targets["scale"].tolist() == [[2, 2], [2, 2]]
    assert targets["size"].tolist() == [[96, 96], [96, 96]]
    with pytest.raises(ValueError, match="max_objects=1, and an image with"):
        DetectionBatching(ImageBatching(), max_objects=1)([scene])


def test_targets_have_the_format_of_keras(scene):
    for name in ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw"):
        _, targets = DetectionBatching(ImageBatching(150), 7, name)([scene])
        boxes = scene["boxes"].astype("float32") * np.float32(150 / 96)
        expected = keras.utils.bounding_boxes.convert_format(boxes, "xyxy", name)
        found = targets["boxes"][0, : len(boxes)]
        np.testing.assert_allclose(found, keras.ops.convert_to_numpy(expected), rtol=1e-5)


def _one_object(**changes):
    image = np.zeros((20, 30, 3), "uint8")
    fields = {"labels": np.array([1]), "crowd": np.array([False]), "areas": np.array([12.0])}
    return {"image": image, "boxes": np.array([[1.0, 2, 4, 6]]), **fields, **changes}


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"boxes": np.array([box])}, "width 30 and height 20. Received")
            for box in (
                *((4, 2, 1, 6), (1, 6, 4, 2), (1, 2, 1, 6), (1, 2, np.nan, 6), (1, 2, np.inf, 6)),
                *((30, 2, 33, 6), (1, 20, 4, 26), (-5, 2, 0, 6), (-np.inf, 2, 4, 6)),
            )
        ),
        ({"labels": np.array([-1])}, "`labels` must be ints of at least 0"),
        ({"labels": np.array([1.0])}, "`labels` must be ints of at least 0"),
        # NumPy would give one box to both labels.
        (
            {"labels": np.array([1, 2])},
            r"must have \{.*'crowd': \(2,\).*Received: \{'boxes': \(1, 4",
        ),
        ({"boxes": np.zeros((1, 5))}, r"Received: \{'boxes': \(1, 5"),
        ({"masks": np.zeros((2, 20, 30), bool)}, r"'masks': \(2, 20, 30\)"),
    ],
)
def test_invalid_objects_are_errors(changes, message):
    batching = DetectionBatching(ImageBatching())
    assert batching([_one_object()])[1]["labels"][0, 0] == 1
    with pytest.raises(ValueError, match=message):
        batching([_one_object(**changes)])


@pytest.mark.only("torch")
def test_incomplete_batches_are_errors():
    batching = DetectionBatching(ImageBatching())
    example = _one_object()
    del example["labels"]
    with pytest.raises(ValueError, match=r"must have \['labels'\]"):
        batching([{**example, "classes": np.array([1])}])
    with pytest.raises(ValueError, match="must have `masks`, or none"):
        batching([_one_object(), _one_object(masks=np.ones((1, 20, 30), bool))])
    for make in (batching, ImageBatching()):
        with pytest.raises(ValueError, match="must have at least one image"):
            make([])


def test_a_longest_side_without_a_shortest():
    images = [np.zeros((*size, 3), "uint8") for size in ((40, 100), (30, 20))]
    _, geometries = ImageBatching(max_size=50)(images)
    assert [each.resized for each in geometries] == [(20, 50), (30, 20)]


def test_flipped_boxes_are_those_of_the_flipped_masks(scene):
    flipped = horizontal_flip(scene)
    assert (flipped["image"] == scene["image"][:, ::-1]).all()
    expected = [_bounds(mask[:, ::-1]) for mask in scene["masks"]]
    assert flipped["boxes"].tolist() == expected


def test_repeated_batches_depend_on_the_seed():
    def take(seed):
        batches = repeated_batches(range(5), lambda each, generator: each, list, 2, seed)
        iterator = iter(batches)
        return [next(iterator) for _ in range(10)]

    first = take(0)
    assert first == take(0) != take(1)
    flat = sum(first, [])
    assert all(sorted(flat[start : start + 5]) == list(range(5)) for start in range(0, 20, 5))
    assert flat[:5] != flat[5:10]
    with pytest.raises(ValueError, match="must not be empty"):
        repeated_batches([], None, None, 2, 0)


# Augmentation


def _augmented(example, seed=0, **arguments):
    """(image, segmentation map) of an example, by default unchanged."""
    plain = {"scale": (96, 96), "ratio_range": (1, 1), "flip": 0, "color_jitter": False}
    augmentation = SegmentationAugmentation(**{"crop_size": 96, **plain, **arguments})
    result = augmentation(example, np.random.default_rng(seed))
    return result["image"], result["segmentation_map"]


def test_augmentation_can_be_disabled(scene):
    image, segmentation_map = _augmented(scene)
    assert (image == scene["image"]).all() and (segmentation_map == scene["segmentation_map"]).all()


def test_maps_of_one_channel_and_of_other_sizes(scene):
    segmentation_map = scene["segmentation_map"]
    _, same = _augmented({**scene, "segmentation_map": segmentation_map[..., None]})
    assert (same == segmentation_map).all()
    with pytest.raises(ValueError, match=r"\(96, 96\). Received: shape \(96, 95\)"):
        _augmented({**scene, "segmentation_map": segmentation_map[:, 1:]})


def test_padding_is_ignored(scene):
    image, segmentation_map = _augmented(scene, crop_size=128)
    assert (image[:96, :96] == scene["image"]).all() and not image[96:].any()
    assert (segmentation_map[:96, :96] == scene["segmentation_map"]).all() and (
        segmentation_map[:, 96:] == 255
    ).all()


def test_image_and_segmentation_map_are_transformed_alike(scene):
    """An image of the segmentation map stays equal to the segmentation map."""
    segmentation_map = scene["segmentation_map"]
    picture = {
        "image": np.repeat(segmentation_map[..., None], 3, axis=2),
        "segmentation_map": segmentation_map,
    }
    for seed in range(10):
        image, segmentation_map = _augmented(picture, seed, crop_size=40, flip=0.5)
        assert (image[..., 0] == segmentation_map).all()
    doubled = _augmented(scene, ratio_range=(2, 2), crop_size=192)
    expected = Image.fromarray(scene["image"]).resize((192, 192), Image.Resampling.BILINEAR)
    assert (doubled[0] == np.asarray(expected)).all()
    assert (doubled[1] == scene["segmentation_map"].repeat(2, 0).repeat(2, 1)).all()
    flipped = _augmented(scene, flip=1)
    assert (flipped[0] == scene["image"][:, ::-1]).all()


def test_crops_with_several_classes_are_preferred():
    """75 % of the crops have one class; ten of those in a row are rare."""
    segmentation_map = np.zeros((96, 96), "uint8")
    segmentation_map[40:56] = np.arange(96) % 2 + 1
    example = {"image": np.zeros((96, 96, 3), "uint8"), "segmentation_map": segmentation_map}
    shares = []
    for seed in range(40):
        _, crop = _augmented(example, seed, crop_size=24)
        shares.append(np.bincount(crop.ravel()).max() / crop.size)
    assert np.mean(np.array(shares) <= 0.75) > 0.8


def test_color_jitter_changes_only_the_image(scene):
    image, segmentation_map = _augmented(scene, 1, color_jitter=True)
    assert (image != scene["image"]).any() and image.dtype == np.uint8
    assert (segmentation_map == scene["segmentation_map"]).all()


# Evaluation


def test_segmentation_evaluation_at_original_sizes(scene):
    generator = np.random.default_rng(0)
    sizes = [(30, 40), (25, 25), (61, 12)]
    truth = [generator.integers(0, 3, size).astype("uint8") for size in sizes]
    truth[0][:5] = 255
    found = [np.where(generator.random(each.shape) < 0.7, each % 3, 1) for each in truth]
    examples = [{"image": number, "segmentation_map": each} for number, each in enumerate(truth)]
    model = types.SimpleNamespace(
        num_classes=3,
        ignore_class=255,
        segment=lambda images, batch_size: [found[number] for number in images],
    )
    evaluation = SegmentationEvaluation(examples, batch_size=2)
    result = evaluation.measure(model)
    counted = np.concatenate([each.ravel() for each in truth]) != 255
    truth = np.concatenate([each.ravel() for each in truth])[counted]
    found = np.concatenate([each.ravel() for each in found])[counted]
    expected = [
        np.sum((truth == label) & (found == label)) / np.sum((truth == label) | (found == label))
        for label in range(3)
    ]
    assert evaluation.per_class == pytest.approx(expected)
    assert result["mean_iou"] == pytest.approx(np.mean(expected))
    assert result["pixel_accuracy"] == pytest.approx(np.mean(truth == found))
    logs = {}
    evaluation.set_model(keras.Model())
    evaluation.every = 2
    evaluation.on_epoch_end(0, logs)
    assert logs == {}
