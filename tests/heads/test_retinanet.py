"""Anchors, predictions and decoding of RetinaNet against plain definitions."""

import keras
import numpy as np
import pytest

from keras_spm.heads import Anchors, RetinaNet
from tests.heads.boxes import greedy_suppression
from tests.helpers import compiled, difference, random_array, randomize, to_numpy

TORCH = keras.config.backend() == "torch"
LEVELS = ["P3", "P4", "P5", "P6", "P7"]


def _maps():
    sizes = {"P3": (7, 5), "P4": (4, 3), "P5": (2, 2)}
    return {
        level: random_array(2, *size, 5 + seed, seed=seed)
        for seed, (level, size) in enumerate(sizes.items())
    }


def test_anchors_are_those_of_the_paper():
    anchors = Anchors()({"P4": np.zeros((1, 2, 3, 1)), "P3": np.zeros((1, 1, 1, 1))})
    anchors = {level: to_numpy(each) for level, each in anchors.items()}
    assert {level: each.shape for level, each in anchors.items()} == {
        "P4": (2 * 3 * 9, 4),
        "P3": (9, 4),
    }
    # The first of P3: width : height = 2 : 1 and area 32².
    width, height = 32 * 2**0.5, 32 / 2**0.5
    assert anchors["P3"][0] == pytest.approx([-width / 2, -height / 2, width / 2, height / 2])
    # The last position of P4: row 1, column 2, and areas from 64².
    last = anchors["P4"][-9:]
    centers = (last[:, :2] + last[:, 2:]) / 2
    assert centers == pytest.approx(np.tile([2 * 16, 1 * 16], (9, 1)))
    sizes = last[:, 2:] - last[:, :2]
    assert sizes.prod(axis=1) == pytest.approx(np.tile([64**2 * 4 ** (n / 3) for n in range(3)], 3))
    assert sizes[:, 1] / sizes[:, 0] == pytest.approx(np.repeat([0.5, 1, 2], 3))


def test_anchors_are_ordered_by_row_and_column():
    anchors = Anchors(scales_per_octave=2, aspect_ratios=(1.0,))
    found = to_numpy(anchors({"P3": np.zeros((1, 5, 3, 1))})["P3"])
    assert found.shape == (30, 4) and anchors.anchors_per_position == 2
    centers = (found[::2, :2] + found[::2, 2:]) / 2
    assert centers.tolist() == [[8 * column, 8 * row] for row in range(5) for column in range(3)]


def test_output_shapes():
    head = RetinaNet(3, pyramid_channels=8, channels=8, num_convs=1)
    maps = _maps()
    outputs = head(maps)
    shapes = head.compute_output_shape({level: each.shape for level, each in maps.items()})
    assert shapes == keras.tree.map_structure(lambda output: tuple(output.shape), outputs)
    assert list(outputs) == ["logits", "deltas", "anchors"]
    assert all(list(outputs[name]) == LEVELS for name in outputs)
    unknown = head.compute_output_shape(
        {level: (None, None, None, each.shape[-1]) for level, each in maps.items()}
    )
    assert unknown["logits"]["P7"] == (None, None, 3)


def test_predictions_are_those_of_plain_convolutions():
    """The towers are shared by all levels."""
    head = RetinaNet(3, pyramid_channels=4, channels=4, num_convs=2)
    maps = _maps()
    head.build({level: each.shape for level, each in maps.items()})
    randomize(head)
    outputs = compiled(head)(maps)
    pyramid = compiled(head.feature_pyramid)(maps)
    assert list(pyramid) == LEVELS
    for name, tower, outputs_per_anchor in ("logits", "class", 3), ("deltas", "box", 4):
        weights = [to_numpy(v) for v in head.weights if f"/{tower}_" in v.path]
        assert len(weights) == 6
        for level, values in pyramid.items():
            for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
                values = to_numpy(keras.ops.conv(values, kernel, padding="same")) + bias
                values = values if kernel is weights[-2] else np.maximum(values, 0)
            expected = values.reshape(2, -1, outputs_per_anchor)
            assert difference(outputs[name][level], expected) <= 1e-5


def test_initial_predictions():
    """Every class has a probability of about 0.01, and every box is its anchor."""
    maps = {level: random_array(1, 4, 4, 64) for level in ("P3", "P4", "P5")}
    outputs = RetinaNet(7)(maps)
    for level in LEVELS:
        probabilities = 1 / (1 + np.exp(-to_numpy(outputs["logits"][level])))
        assert np.abs(probabilities - 0.01).max() < 1e-3
        assert np.abs(to_numpy(outputs["deltas"][level])).max() < 0.1


# Decoding


def _raw_outputs(num_classes=3):
    """Random outputs for two images of 64x48 pixels."""
    counts = {"P3": 48 * 9, "P4": 12 * 9, "P5": 4 * 9, "P6": 9, "P7": 9}
    sizes = {"P3": (8, 6), "P4": (4, 3), "P5": (2, 2), "P6": (1, 1), "P7": (1, 1)}
    maps = {level: np.zeros((2, *size, 1), "float32") for level, size in sizes.items()}
    logits, deltas = {}, {}
    for seed, (level, count) in enumerate(counts.items()):
        logits[level] = random_array(2, count, num_classes, seed=seed)
        deltas[level] = 0.5 * random_array(2, count, 4, seed=9 + seed)
    return {"logits": logits, "deltas": deltas, "anchors": Anchors()(maps)}


def _detections(outputs, **arguments):
    head = RetinaNet(3, **arguments)
    detections = compiled(lambda outputs: head.decode(outputs, (64, 48)))(outputs)
    return {name: to_numpy(each) for name, each in detections.items()}


def _decoded(outputs, image, candidates_per_level, score_threshold, iou_threshold, most):
    """The definition: the best pairs of each level, their boxes, greedy suppression."""
    boxes, scores, labels = [], [], []
    for level, logits in outputs["logits"].items():
        logits = logits[image].astype("float64")
        best = np.argsort(-logits.ravel(), kind="stable")[:candidates_per_level]
        anchors, classes = np.unravel_index(best, logits.shape)
        references = to_numpy(outputs["anchors"][level])[anchors].astype("float64")
        deltas = outputs["deltas"][level][image][anchors]
        sizes = references[:, 2:] - references[:, :2]
        centers = (references[:, 2:] + references[:, :2]) / 2 + deltas[:, :2] * sizes
        sizes = sizes * np.exp(np.minimum(deltas[:, 2:], np.log(1000 / 16)))
        boxes.append(np.concatenate([centers - sizes / 2, centers + sizes / 2], -1))
        scores.append(1 / (1 + np.exp(-logits.ravel()[best])))
        labels.append(classes)
    boxes, scores, labels = map(np.concatenate, (boxes, scores, labels))
    boxes = boxes.clip(0, [48, 64, 48, 64])
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    scores = np.where(has_area & (scores > score_threshold), scores, 0)
    kept = greedy_suppression(boxes, scores, labels, iou_threshold, most)
    return boxes[kept], scores[kept], labels[kept]


@pytest.mark.parametrize("arguments", [(20, 0.7, 0.5, 30), (1000, 0.8, 0.3, 20), (3, 0.1, 0.6, 50)])
def test_detections_are_the_definition(arguments):
    outputs = _raw_outputs()
    names = ("candidates_per_level", "score_threshold", "iou_threshold", "max_detections")
    found = _detections(outputs, **dict(zip(names, arguments, strict=True)))
    for image in range(2):
        boxes, scores, labels = _decoded(outputs, image, *arguments)
        count = len(labels)
        assert count and (found["labels"][image][:count] == labels).all()
        assert difference(found["scores"][image][:count], scores) <= 1e-6
        assert difference(found["boxes"][image][:count], boxes) <= 1e-4
        assert (found["labels"][image][count:] == -1).all()
        assert not found["boxes"][image][count:].any() and not found["scores"][image][count:].any()


def test_scores_must_be_above_the_threshold():
    outputs = _raw_outputs()
    logits = {level: np.full_like(each, -9.0) for level, each in outputs["logits"].items()}
    logits["P5"][0, 7, 1] = 0.0
    detections = _detections({**outputs, "logits": logits}, score_threshold=0.5)
    assert (detections["labels"] == -1).all()
    logits["P5"][0, 7, 1] = 0.1
    detections = _detections({**outputs, "logits": logits}, score_threshold=0.5)
    assert detections["labels"][:, :2].tolist() == [[1, -1], [-1, -1]]


def test_boxes_outside_the_image_are_dropped():
    outputs = _raw_outputs()
    logits = {level: np.full_like(each, -9.0) for level, each in outputs["logits"].items()}
    deltas = {level: np.zeros_like(each) for level, each in outputs["deltas"].items()}
    logits["P3"][:, 200, 2] = 3.0
    deltas["P3"][1, 200] = [-9, 0, 0, 0]
    detections = _detections({**outputs, "logits": logits, "deltas": deltas})
    assert detections["labels"][:, :2].tolist() == [[2, -1], [-1, -1]]


@pytest.mark.parametrize("name", ["logits", "deltas"])
def test_values_that_are_no_numbers_take_no_place(name):
    """More of them than candidates of a level: they must not displace the others."""
    outputs = _raw_outputs()
    broken = {level: each.copy() for level, each in outputs[name].items()}
    for level in LEVELS:
        broken[level][0, ::2] = np.nan
    arguments = {"candidates_per_level": 4, "max_detections": 30}
    found = _detections({**outputs, name: broken}, **arguments)
    assert all(np.isfinite(each).all() for each in found.values())
    without = {level: each.copy() for level, each in outputs["logits"].items()}
    for level in LEVELS:
        without[level][0, ::2] = -99
    if name == "logits":
        expected = _detections({**outputs, "logits": without}, **arguments)
        assert all(difference(found[key], expected[key]) == 0 for key in found)
    # The other image is not affected.
    expected = _detections(outputs, **arguments)
    assert all(difference(found[key][1], expected[key][1]) == 0 for key in found)


# Losses


@pytest.mark.graph
@pytest.mark.parametrize("as_program", [False] if TORCH else [False, True])
def test_no_entry_for_an_object(as_program):
    """The losses are those of a batch whose only entry is padding."""
    outputs = _raw_outputs()
    head = RetinaNet(3)

    def losses(boxes, labels):
        targets = {"boxes": boxes, "labels": labels, "crowd": labels > 0}
        return head.compute_losses(outputs, targets)

    if as_program:
        losses = _compiled(losses)
    expected = losses(np.zeros((2, 1, 4), "float32"), np.full((2, 1), -1, "int32"))
    found = losses(np.zeros((2, 0, 4), "float32"), np.zeros((2, 0), "int32"))
    for name in head.loss_names:
        assert tuple(found[name].shape) == (2,)
        assert difference(found[name], expected[name]) <= 1e-5 * to_numpy(expected[name]).max()
    assert to_numpy(found["classification_loss"]).min() > 0
    assert not to_numpy(found["box_loss"]).any()


def _compiled(losses):
    """One program for all numbers of entries on TensorFlow, one for each on JAX."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec((2, None, 4)), tf.TensorSpec((2, None), "int32")]
        return tf.function(losses, input_signature=signature)
    import jax

    return jax.jit(losses)
