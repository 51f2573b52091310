"""What holds for all tasks on a feature pyramid."""

import inspect

import numpy as np
import pytest

from keras_spm import ObjectDetector
from keras_spm import SemanticSegmenter
from tests import golden
from tests.helpers import difference
from tests.helpers import to_numpy

# Every argument, each another than its default.
_SHARED = {
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "pyramid_channels": 8,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.3, 0.2, 0.1),
    "batching": {**{"min_size": 40, "max_size": 80, "size_divisor": 16, "resize_to_divisor": True}},
    "name": "task",
    "trainable": False,
}
ARGUMENTS = {
    SemanticSegmenter: {
        **_SHARED,
        "ignore_class": 7,
        "head_channels": 16,
        "dropout": 0.3,
        "fused": True,
    },
    ObjectDetector: {
        **_SHARED,
        "bounding_box_format": "yxyx",
        "head_channels": 16,
        "num_convs": 2,
        "anchor_scale": 3.0,
        "box_loss": "smooth_l1",
        "score_threshold": 0.1,
        "iou_threshold": 0.4,
        "max_detections": 7,
    },
}
tasks = pytest.mark.parametrize("task", ARGUMENTS)


@tasks
def test_no_argument_is_lost(task):
    signature = inspect.signature(task).parameters
    named = {name for name, each in signature.items() if each.kind is not each.VAR_KEYWORD}
    arguments = ARGUMENTS[task]
    assert named == arguments.keys() - {"name", "trainable"} | {"backbone"}
    model = task(golden.short_backbone("pvt_v2"), **arguments)
    config = model.get_config()
    assert {name: config[name] for name in arguments} == arguments
    assert config.keys() == arguments.keys() | {"backbone"}
    again = task.from_config(config).get_config()
    assert again == config
    for name in named - {"backbone", "num_classes"}:
        assert arguments[name] != signature[name].default, name


def _targets(task, count, height, width):
    if task is SemanticSegmenter:
        return np.random.default_rng(1).integers(0, 3, (count, height, width))
    boxes = np.tile(np.float32([[[4, 5, 30, 28]]]), (count, 1, 1))
    return {"boxes": boxes, "labels": np.ones((count, 1), "int32")}


def _results(model, images):
    """What is found in images, as a list of arrays."""
    if isinstance(model, SemanticSegmenter):
        return model.segment(images)
    return [part for found in model.detect(images) for part in found.values()]


ODD = np.random.default_rng(0).integers(0, 256, (2, 50, 33, 3), dtype="uint8")


def _in_both_formats(task):
    return [
        task(
            golden.short_backbone("pvt_v2", data_format=data_format),
            3,
            pyramid_channels=8,
            head_channels=8,
        )
        for data_format in ("channels_first", "channels_last")
    ]


@tasks
def test_what_is_found_does_not_depend_on_the_data_format(task):
    """In images that 32 does not divide."""
    models = [golden.randomize_task(model) for model in _in_both_formats(task)]
    for found, expected in zip(*(_results(model, ODD) for model in models), strict=True):
        assert found.shape == expected.shape and len(found)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.only("torch")  # Shapes of layers are checked on every backend.
@tasks
def test_a_step_on_images_of_any_size(task):
    """That 32 does not divide, in either data format; they are not padded here."""
    for model, images in zip(_in_both_formats(task), (ODD.transpose(0, 3, 1, 2), ODD), strict=True):
        (loss,) = model.fit(images, _targets(task, *ODD.shape[:3]), verbose=0).history["loss"]
        assert np.isfinite(loss) and loss > 0
        assert all(np.isfinite(weights).all() for weights in model.get_weights())


@pytest.mark.only("torch")  # What is frozen is checked on every backend by the contract.
@tasks
def test_frozen_batch_normalization_keeps_its_statistics(task):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    targets = _targets(task, 2, 64, 64)
    model = task(golden.short_backbone("pvt_v2_spm"), 3, pyramid_channels=8, head_channels=8)
    statistics = [each for each in model.backbone.weights if "moving" in each.path]
    for frozen in (True, False):
        model.freeze(0, batch_normalization=frozen)
        before = [np.array(to_numpy(each)) for each in statistics]
        model.fit(images, targets, verbose=0)
        moved = [difference(each, old) > 0 for each, old in zip(statistics, before, strict=True)]
        assert len(moved) == 12 and moved == [not frozen] * 12
