"""Mask R-CNN against mmdetection's, on PVT v2."""

import keras
import numpy as np
import pytest

from keras_spm import ObjectDetector, PVTv2, heads, load_torch_weights
from keras_spm.heads.matcher import BalancedSampler
from keras_spm.tasks.pasting import paste_masks
from tests import golden
from tests.helpers import compiled, difference, to_numpy

NAME = "mmdet_mask_rcnn_pvt_v2"
BACKBONE_ARGUMENTS = ("embed_dims", "num_heads", "mlp_ratios", "depths", "sr_ratios")
LOSSES = {
    "rpn_classification_loss": "loss_rpn_cls",
    "rpn_box_loss": "loss_rpn_bbox",
    "classification_loss": "loss_cls",
    "box_loss": "loss_bbox",
    "mask_loss": "loss_mask",
}

# The second input has another size; that is the same code on every backend.
NUMBERS = (0, 1) if keras.config.backend() == "torch" else (0,)
inputs = pytest.mark.parametrize("number", NUMBERS)


@pytest.fixture(scope="module")
def task():
    _, config = golden.read(NAME)
    head = heads.MaskRCNN(
        pyramid_channels=config["pyramid_channels"],
        rpn_channels=config["rpn_channels"],
        box_head_channels=config["box_head_channels"],
        mask_head_channels=config["mask_head_channels"],
        max_proposals=config["test"]["rpn"]["max_per_img"],
        score_threshold=config["test"]["rcnn"]["score"],
        iou_threshold=config["test"]["rcnn"]["iou"],
        max_detections=config["test"]["rcnn"]["max_per_img"],
    )
    backbone = PVTv2(**{name: config[name] for name in BACKBONE_ARGUMENTS})
    # The goldens' images are already normalized: the task takes 255 times the images.
    task = ObjectDetector(backbone, config["num_classes"], head, mean=(0, 0, 0), std=(1, 1, 1))
    load_torch_weights(task, golden.state(NAME), "official")
    # The reference's samplers take everything: 200 proposals, and at most five objects.
    head.sampler = BalancedSampler(205, 1.0, seed=keras.random.SeedGenerator(0))
    head.rpn.sampler = BalancedSampler(3200, 1.0, seed=keras.random.SeedGenerator(0))
    return task


@pytest.fixture(scope="module")
def outputs(task):
    arrays, _ = golden.read(NAME)
    call = compiled(task)
    return {number: call(255 * arrays[f"input{number}"]) for number in NUMBERS}


def _check(found, expected):
    expected = expected.reshape(found.shape)
    assert difference(found, expected) <= 1e-4 * max(np.abs(expected).max(), 1)


@inputs
def test_pyramid_and_region_proposal_network(outputs, number):
    arrays, _ = golden.read(NAME)
    names = {"pyramid": "pyramid", "objectness": "objectness", "deltas": "proposal_deltas"}
    for name, key in names.items():
        assert list(outputs[number][name]) == ["P2", "P3", "P4", "P5", "P6"]
        for level, values in outputs[number][name].items():
            _check(values, arrays[f"{key}{number}.{level}"])


def _proposals(arrays, number):
    """Returns boxes (2, 200, 4) and scores (2, 200)."""
    return (
        np.stack([arrays[f"proposals{number}.image{index}.{name}"] for index in range(2)])
        for name in ("boxes", "scores")
    )


def _check_order(found, expected, scores):
    """Boxes may change places where scores differ by less than rounding."""
    for image in range(2):
        for index, box in enumerate(expected[image]):
            near = np.abs(scores[image] - scores[image][index]) <= 1e-5
            assert np.abs(found[image][near] - box).max(axis=1).min() <= 1e-3


@inputs
def test_proposals(task, outputs, number):
    arrays, _ = golden.read(NAME)
    size = arrays[f"input{number}"].shape[1:3]
    propose = compiled(lambda outputs: task.head.rpn.propose(outputs, size, 1000, 200))
    boxes, scores = map(to_numpy, propose(outputs[number]))
    expected_boxes, expected_scores = _proposals(arrays, number)
    assert difference(scores, expected_scores) <= 1e-5
    _check_order(boxes, expected_boxes, expected_scores)


@inputs
def test_heads_on_regions(task, outputs, number):
    """Given the reference's proposals and detections."""
    arrays, _ = golden.read(NAME)
    proposals, _ = _proposals(arrays, number)

    @compiled
    def box_head(outputs, proposals):
        features = task.head.features(outputs, proposals, 7)
        return features, *task.head.box_head(features)

    @compiled
    def mask_head(outputs, boxes, labels=None):
        return task.head.mask_head(task.head.features(outputs, boxes, 14), labels)

    features, logits, deltas = box_head(outputs[number], proposals)
    _check(features[0, :20], arrays[f"roi_features{number}.first20"])
    _check(logits, arrays[f"class_logits{number}"])
    _check(deltas, arrays[f"box_deltas{number}"])
    detections = _detections(arrays, number)
    logits = mask_head(outputs[number], detections["boxes"])
    expected = arrays[f"mask_logits{number}.of_all_detections"].transpose(0, 2, 3, 1)
    _check(logits, expected)
    of_labels = mask_head(outputs[number], detections["boxes"], detections["labels"])
    labels = detections["labels"].reshape(-1)
    _check(of_labels, expected[np.arange(len(labels)), ..., labels])


def _detections(arrays, number):
    return {
        name: np.stack([arrays[f"detections{number}.image{index}.{name}"] for index in range(2)])
        for name in ("boxes", "scores", "labels", "masks")
    }


@pytest.mark.graph
@pytest.mark.filterwarnings("ignore:The first images have negative pixels")
@inputs
def test_detections(task, number):
    arrays, _ = golden.read(NAME)
    images = 255 * arrays[f"input{number}"]
    found, expected = task.predict(images, verbose=0), _detections(arrays, number)
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    assert difference(found["scores"], expected["scores"]) <= 1e-5
    assert difference(found["boxes"], expected["boxes"]) <= 1e-3
    for image in range(2):
        masks = paste_masks(found["masks"][image], found["boxes"][image], images.shape[1:3])
        assert (masks != expected["masks"][image]).mean() <= 1e-3
        # On the same boxes and masks, of those that are seen at all.
        assert expected["masks"][image].any()


def _targets(arrays, number):
    """The ground truth of both images, padded to the same number of objects."""
    size = arrays[f"input{number}"].shape[1:3]
    targets = {
        "boxes": np.zeros((2, 5, 4), "float32"),
        "labels": np.full((2, 5), -1, "int32"),
        "masks": np.zeros((2, 5, *size), "uint8"),
    }
    for name, values in targets.items():
        for index in range(2):
            truth = arrays[f"truth{number}.image{index}.{name}"]
            values[index, : len(truth)] = truth
    return targets


@inputs
def test_losses(task, outputs, number):
    arrays, _ = golden.read(NAME)
    losses = compiled(task.head.compute_losses)(outputs[number], _targets(arrays, number))
    found = {name: float(to_numpy(each).sum()) for name, each in losses.items()}
    expected = {name: float(arrays[f"loss{number}.{key}"]) for name, key in LOSSES.items()}
    assert found == pytest.approx(expected, rel=1e-4)
