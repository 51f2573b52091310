"""Heads against RetinaNet of mmdetection and Semantic FPN of mmsegmentation, on PVT v2."""

import keras
import numpy as np
import pytest

from keras_spm import ObjectDetector, PVTv2, SemanticSegmenter, heads, load_torch_weights
from tests import golden
from tests.helpers import difference, to_numpy

BACKBONE_ARGUMENTS = ("embed_dims", "num_heads", "mlp_ratios", "depths", "sr_ratios")
# The goldens' images are already normalized: the tasks take 255 times the images.
NORMALIZATION = {"mean": (0, 0, 0), "std": (1, 1, 1)}

# The second input has another size; that is the same code on every backend.
inputs = pytest.mark.parametrize("number", [0, 1] if keras.config.backend() == "torch" else [0])


def _backbone(config):
    return PVTv2(**{name: config[name] for name in BACKBONE_ARGUMENTS})


@pytest.fixture(scope="module")
def detector():
    _, config = golden.read("mmdet_retinanet_pvt_v2")
    shared = ("score_threshold", "iou_threshold", "max_detections", "candidates_per_level")
    head = heads.RetinaNet(
        pyramid_channels=config["pyramid_channels"],
        channels=config["head_channels"],
        num_convs=config["head_depth"],
        **{name: config[name] for name in shared},
    )
    task = ObjectDetector(_backbone(config), config["num_classes"], head, **NORMALIZATION)
    load_torch_weights(task, golden.state("mmdet_retinanet_pvt_v2"), "official")
    return task


@pytest.fixture(scope="module")
def segmenter():
    _, config = golden.read("mmseg_semantic_fpn_pvt_v2")
    head = heads.SemanticFPN(
        pyramid_channels=config["pyramid_channels"], channels=config["head_channels"]
    )
    task = SemanticSegmenter(_backbone(config), config["num_classes"], head, **NORMALIZATION)
    load_torch_weights(task, golden.state("mmseg_semantic_fpn_pvt_v2"), "official")
    return task


def _pyramid(task, images):
    outputs = {level: task.backbone.pyramid_outputs[level] for level in task.head.levels}
    return task.head.feature_pyramid(keras.Model(task.backbone.input, outputs)(images))


def _check_levels(found, arrays, prefix):
    expected = {key.split(".")[1]: arrays[key] for key in arrays if key.startswith(f"{prefix}.")}
    assert found.keys() == expected.keys()
    for level, values in found.items():
        reference = expected[level].reshape(values.shape)
        assert difference(values, reference) <= 1e-5 * max(np.abs(reference).max(), 1), level


@inputs
def test_pyramid_of_the_detector(detector, number):
    arrays, _ = golden.read("mmdet_retinanet_pvt_v2")
    _check_levels(_pyramid(detector, arrays[f"input{number}"]), arrays, f"pyramid{number}")


@inputs
def test_logits_and_deltas_of_every_level(detector, number):
    arrays, _ = golden.read("mmdet_retinanet_pvt_v2")
    outputs = detector(255 * arrays[f"input{number}"])
    _check_levels(outputs["logits"], arrays, f"class_logits{number}")
    _check_levels(outputs["deltas"], arrays, f"box_deltas{number}")


def _targets(arrays, number):
    """The ground truth of both images, padded to the same number of objects."""
    prefixes = [f"truth{number}.image{index}" for index in range(2)]
    boxes = np.zeros((2, 5, 4), "float32")
    labels = np.full((2, 5), -1, "int32")
    for index, prefix in enumerate(prefixes):
        count = len(arrays[f"{prefix}.labels"])
        boxes[index, :count] = arrays[f"{prefix}.boxes"]
        labels[index, :count] = arrays[f"{prefix}.labels"]
    return {"boxes": boxes, "labels": labels}


@inputs
def test_losses(detector, number):
    arrays, _ = golden.read("mmdet_retinanet_pvt_v2")
    outputs = detector(255 * arrays[f"input{number}"])
    losses = detector.detector.compute_losses(outputs, _targets(arrays, number))
    for name, reference in ("classification_loss", "classification"), ("box_loss", "boxes"):
        expected = float(arrays[f"loss{number}.{reference}"])
        assert to_numpy(losses[name]).sum() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.graph
@pytest.mark.filterwarnings("ignore:The first images have negative pixels")
@inputs
def test_detections(detector, number):
    arrays, _ = golden.read("mmdet_retinanet_pvt_v2")
    detections = detector.predict(255 * arrays[f"input{number}"], verbose=0)
    for index in range(2):
        expected = {
            name: arrays[f"detections{number}.image{index}.{name}"]
            for name in ("boxes", "scores", "labels")
        }
        count = len(expected["labels"])
        found = {name: values[index] for name, values in detections.items()}
        np.testing.assert_array_equal(found["labels"][:count], expected["labels"])
        assert (found["labels"][count:] == -1).all()
        assert difference(found["scores"][:count], expected["scores"]) <= 1e-5
        assert difference(found["boxes"][:count], expected["boxes"]) <= 1e-3


@inputs
def test_pyramid_and_logits_of_the_segmenter(segmenter, number):
    arrays, _ = golden.read("mmseg_semantic_fpn_pvt_v2")
    images = arrays[f"input{number}"]
    _check_levels(_pyramid(segmenter, images), arrays, f"pyramid{number}")
    head = segmenter.get_layer("decoder")
    model = keras.Model(segmenter.input, head.output)
    assert difference(model(255 * images), arrays[f"logits{number}"]) <= 1e-5
