"""Training, evaluation and prediction with the instance segmenter."""

import json

import keras
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from keras_spm import InstanceSegmenter
from keras_spm.cli import main
from keras_spm.data import DetectionBatching, DigitScenes, ImageBatching
from keras_spm.heads import FasterRCNN, MaskRCNN
from keras_spm.metrics import coco_average_precision, coco_mask_average_precision
from keras_spm.tasks.inference import View, merge_detections
from tests import golden
from tests.helpers import conv_backbone, difference, error_message, to_numpy

torch_only = pytest.mark.only("torch")  # Does not depend on the backend.

LOSSES = (
    *("rpn_classification_loss", "rpn_box_loss"),
    *("classification_loss", "box_loss", "mask_loss"),
)


def _segmenter(backbone=None, **arguments):
    small = {"pyramid_channels": 8, "rpn_channels": 8, "box_head_channels": 16}
    small |= {"mask_head_channels": 8, "max_proposals": 20, "max_detections": 5}
    head = MaskRCNN(**{**small, **arguments}, seed=0)
    return InstanceSegmenter(backbone or conv_backbone(), 10, head, list(map(str, range(10))))


def _random_segmenter(backbone=None):
    """A segmenter with known random weights, that finds objects."""
    model = golden.randomize_task(_segmenter(backbone))
    classifier = model.detector.box_head.classifier
    classifier.kernel.assign(to_numpy(classifier.kernel) * 10)
    return model


@pytest.fixture(scope="module")
def model():
    return _random_segmenter(golden.short_backbone("pvt_v2"))


@pytest.fixture(scope="module")
def scenes():
    return [DigitScenes("validation", 3, 64)[index] for index in range(3)]


def _batch(scenes, max_objects=7):
    return DetectionBatching(ImageBatching(), max_objects)(scenes)


@pytest.mark.graph
def test_training(scenes):
    model = _segmenter()
    model.compile(
        keras.optimizers.AdamW(1e-2)
    )  # The loss falls more than it varies with the samples.
    images, targets = _batch(scenes)
    # Of these images, one has no objects, and one only a crowd.
    targets["labels"][1] = -1
    targets["crowd"][2] = True
    before = model.get_weights()
    history = model.fit(images, targets, batch_size=3, epochs=8, verbose=0).history
    for variable, value in zip(model.weights, before, strict=True):
        assert (to_numpy(variable) != value).any() or not variable.trainable, variable.path
    assert set(history) == {"loss", *LOSSES}
    assert all(np.isfinite(values).all() for values in history.values())
    assert history["loss"][-1] < history["loss"][0] / 2
    total = sum(np.array(history[name]) for name in LOSSES)
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    # Without any object, the losses of boxes and masks are exactly 0.
    targets["labels"][:] = -1
    logs = model.fit(images, targets, batch_size=3, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    assert (logs["rpn_box_loss"], logs["box_loss"], logs["mask_loss"]) == ([0], [0], [0])


@pytest.mark.graph
def test_predictions_use_the_present_weights(scenes):
    """The detector's layers decode, too: on JAX their values are arguments of the program."""
    model = _random_segmenter()
    images, _ = _batch(scenes)
    first = model.predict(images, verbose=0)
    assert (first["labels"] >= 0).any()
    for variable in model.detector.weights:
        if "mask_head" in variable.path and "classifier/bias" in variable.path:
            variable.assign(to_numpy(variable) + 3)
    second = model.predict(images, verbose=0)
    np.testing.assert_allclose(second["boxes"], first["boxes"], atol=1e-3)
    found = first["labels"] >= 0
    assert (second["masks"][found] > first["masks"][found]).all()


@torch_only
def test_save_and_load(model, scenes, tmp_path):
    images, _ = _batch(scenes)
    expected = model.predict(images, verbose=0)
    assert expected["masks"].shape == (3, 5, 28, 28)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is InstanceSegmenter and again.class_names == model.class_names
    for name, values in again.predict(images, verbose=0).items():
        assert difference(values, expected[name]) == 0, name


def test_masks_are_inside_their_boxes_in_pixels_of_the_image(model, scenes):
    images = [scenes[0]["image"], scenes[1]["image"][:48, :40]]
    for image, found in zip(images, model.detect(images), strict=True):
        height, width = image.shape[:2]
        count = len(found["labels"])
        assert count and found["masks"].shape == (count, height, width)
        assert found["masks"].dtype == bool and found["masks"].any()
        rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
        for mask, (left, top, right, bottom) in zip(found["masks"], found["boxes"], strict=True):
            outside = (rows < top - 0.5) | (rows > bottom + 0.5)
            assert not mask[outside].any()
            assert not mask[:, (columns < left - 0.5) | (columns > right + 0.5)].any()


@torch_only  # On the others, programs of the same losses and detections take minutes to compile.
def test_evaluation(model, scenes):
    examples = [{**each, "image": each["image"][:50]} for each in scenes]
    # Objects that are whole in the part of the image.
    for example in examples:
        whole = example["boxes"][:, 3] <= 50
        for name in ("boxes", "labels", "crowd", "areas", "masks"):
            example[name] = example[name][whole]
        example["masks"] = example["masks"][:, :50]
    images, targets = _batch(examples)
    assert targets["masks"].shape[2:] == (64, 64)
    logs = model.evaluate(images, targets, batch_size=2, verbose=0, return_dict=True)
    found = model.detect([example["image"] for example in examples])
    expected = {
        **coco_average_precision(examples, found),
        **coco_mask_average_precision(examples, found),
    }
    assert {name: logs[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(logs) == {"loss", *LOSSES, *expected}
    assert model.evaluate_on(examples, batch_size=2) == pytest.approx(
        {**expected, **{name: pytest.approx(-1, abs=2) for name in _class_metrics()}}, abs=1e-6
    )


def _class_metrics():
    return [f"{prefix}AP/{number}" for prefix in ("", "mask_") for number in range(10)]


@torch_only
def test_targets_without_masks(model, scenes):
    images, targets = _batch(scenes)
    masks = targets.pop("masks")
    message = error_message(model.fit, x=images, y=targets)
    assert message.startswith("Targets must also have `masks`. Received: ['boxes', 'labels'")
    message = error_message(model.fit, x=images, y={**targets, "masks": masks[..., ::2]})
    assert message == (
        "`masks` must have shape (3, 7, 64, 64): a mask of the size of the image for each "
        "object. Received: shape (3, 7, 64, 32)"
    )
    message = error_message(model.fit, x=images, y={**targets, "masks": masks * np.uint8(255)})
    assert message == "`masks` must be 0 or 1. Received: 255"


@torch_only
def test_detector_without_masks():
    detector = FasterRCNN(pyramid_channels=8, rpn_channels=8, box_head_channels=16)
    message = error_message(
        InstanceSegmenter, backbone=conv_backbone(), num_classes=10, detector=detector
    )
    assert message == (
        "`detector` must predict masks, as `keras_spm.heads.MaskRCNN` does (attribute "
        "`predicts_masks`). Received: detector=FasterRCNN"
    )


@torch_only
def test_masks_of_windows_are_joined():
    """An object across the seam of two windows, and one in both, in one of them mirrored."""
    masks = np.zeros((2, 40, 100), bool)
    masks[0, 5:30, 20:80] = True
    masks[0, 20:, 50:] = False  # Not a rectangle.
    masks[1, 32:38, 42:58] = True
    results = []
    for number, (left, right) in enumerate(((0, 60), (40, 100))):
        cut = masks[:, :, left:right]
        cut = cut[:, :, ::-1] if number else cut
        boxes = np.array([_box(mask) for mask in cut], "float32")
        scores = np.array([0.9, 0.5], "float32") - number / 10
        view = View(0, 2, (40, 100), (left, 0, right, 40), bool(number), None)
        labels = np.array([3, 3])
        results.append((view, {"boxes": boxes, "scores": scores, "labels": labels, "masks": cut}))
    merged = merge_detections(results, 0.5)
    assert merged["boxes"].tolist() == [_box(mask) for mask in masks]
    np.testing.assert_array_equal(merged["masks"], masks)


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(x) for x in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


@torch_only
def test_the_command_line(model, scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    Image.fromarray(scenes[0]["image"]).save("scene.png")
    command = ["predict", "model.keras", "scene.png", "--output", "seen", "--json"]
    command += ["--score-threshold", "0"]
    assert main([*command, "--format", "coco"]) == 0
    (found,) = model.detect([scenes[0]["image"]])
    assert len(found["labels"])
    objects = json.loads(capsys.readouterr().out)["objects"]
    annotations = json.loads((tmp_path / "seen/predictions.json").read_text())["annotations"]
    for entries in (objects, annotations):
        decoded = [coco_mask.decode(each["segmentation"]) for each in entries]
        np.testing.assert_array_equal(decoded, found["masks"])
    assert [each["area"] for each in annotations] == found["masks"].sum(axis=(1, 2)).tolist()
    assert main([*command, "--format", "masks"]) == 0
    expected = np.zeros((64, 64), int)
    for number, mask in reversed(list(enumerate(found["masks"], start=1))):
        expected[mask] = number
    with Image.open("seen/scene.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)
