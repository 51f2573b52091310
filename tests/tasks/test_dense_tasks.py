"""Properties that all tasks on a feature pyramid share."""

import inspect

import keras
import numpy as np
import pytest

from keras_spm import ObjectDetector, SemanticSegmenter, heads
from tests import golden
from tests.helpers import difference, to_numpy

# All arguments, with values other than the defaults.
_SHARED = {
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "mean": (0.1, 0.2, 0.3),
    "std": (0.3, 0.2, 0.1),
    "batching": {
        **{"min_size": 40, "max_size": 80, "size_divisor": 16, "resize_to_divisor": True},
        "channels": 3,
    },
    "name": "task",
    "trainable": False,
}
_SMALL = {"pyramid_channels": 8, "channels": 8}
ARGUMENTS = {
    SemanticSegmenter: {
        **_SHARED,
        "decoder": lambda: heads.SemanticFPN(dropout=0.3, fused=True, **_SMALL),
        "ignore_class": 7,
        "class_colors": [[0, 0, 0], [255, 0, 0], [9, 8, 7]],
    },
    ObjectDetector: {
        **_SHARED,
        "detector": lambda: heads.RetinaNet(anchor_scale=3.0, max_detections=7, **_SMALL),
        "bounding_box_format": "yxyx",
    },
}
tasks = pytest.mark.parametrize("task", ARGUMENTS)


@tasks
def test_config_round_trip(task):
    signature = inspect.signature(task).parameters
    names = {name for name, each in signature.items() if each.kind is not each.VAR_KEYWORD}
    arguments = dict(ARGUMENTS[task])
    assert names == arguments.keys() - {"name", "trainable"} | {"backbone"}
    for name in names - {"backbone", "num_classes"}:
        assert arguments[name] != signature[name].default, name
    head = arguments[task.head_argument]()
    model = task(golden.short_backbone("pvt_v2"), **{**arguments, task.head_argument: head})
    config = model.get_config()
    assert config.keys() == arguments.keys() | {"backbone"}
    del arguments[task.head_argument]
    assert {name: config[name] for name in arguments} == arguments
    again = keras.saving.deserialize_keras_object(config[task.head_argument])
    assert type(again) is type(head) and again.get_config() == head.get_config()
    assert head.num_classes == 3 and head.name == task.head_argument
    assert task.from_config(config).get_config() == config


def _targets(task, count, height, width):
    if task is SemanticSegmenter:
        return np.random.default_rng(1).integers(0, 3, (count, height, width))
    boxes = np.tile(np.float32([[[4, 5, 30, 28]]]), (count, 1, 1))
    return {"boxes": boxes, "labels": np.ones((count, 1), "int32")}


def _results(model, images):
    """Returns the predictions for images as a list of arrays."""
    if isinstance(model, SemanticSegmenter):
        return model.segment(images)
    return [values for detections in model.detect(images) for values in detections.values()]


def _task(task, name="pvt_v2", **arguments):
    """Returns a small task on the backbone of a golden, with initial weights."""
    small = {
        SemanticSegmenter: lambda: heads.SemanticFPN(**_SMALL),
        ObjectDetector: lambda: heads.RetinaNet(num_convs=1, **_SMALL),
    }
    return task(golden.short_backbone(name, **arguments), 3, small[task]())


# Not divisible by 32.
ODD = np.random.default_rng(0).integers(0, 256, (2, 50, 33, 3), dtype="uint8")


@pytest.mark.only("torch")
@tasks
def test_predictions_do_not_depend_on_the_data_format(task):
    channels_first, channels_last = (
        golden.randomize_task(_task(task, data_format=data_format))
        for data_format in ("channels_first", "channels_last")
    )
    results = (_results(model, ODD) for model in (channels_first, channels_last))
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape and len(found)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.only("torch")  # The layers' shapes are checked on every backend.
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@tasks
def test_training_step_on_images_of_any_size(task, data_format):
    """`fit` does not pad images."""
    images = ODD if data_format == "channels_last" else ODD.transpose(0, 3, 1, 2)
    model = _task(task, data_format=data_format)
    (loss,) = model.fit(images, _targets(task, *ODD.shape[:3]), verbose=0).history["loss"]
    assert np.isfinite(loss) and loss > 0
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


@pytest.mark.only("torch")  # The contract checks frozen variables on every backend.
@tasks
def test_frozen_batch_normalization_keeps_its_statistics(task):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    targets = _targets(task, 2, 64, 64)
    model = _task(task, "pvt_v2_spm")
    statistics = [each for each in model.backbone.weights if "moving" in each.path]
    for frozen in (True, False):
        model.freeze(0, batch_normalization=frozen)
        before = [np.array(to_numpy(each)) for each in statistics]
        model.fit(images, targets, verbose=0)
        moved = [difference(each, old) > 0 for each, old in zip(statistics, before, strict=True)]
        assert len(moved) == 12 and moved == [not frozen] * 12


@pytest.mark.only("torch")
@tasks
def test_a_head_for_other_classes_is_refused(task):
    head = {SemanticSegmenter: heads.SemanticFPN, ObjectDetector: heads.RetinaNet}[task](5)
    with pytest.raises(ValueError, match=f"`{task.head_argument}` must be for 3 classes"):
        task(golden.short_backbone("pvt_v2"), 3, head)
