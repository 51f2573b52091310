"""Faster and Mask R-CNN: losses and their gradients, unusual batches, sizes."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_spm
from keras_spm.heads import FasterRCNN, MaskRCNN
from keras_spm.heads.matcher import BACKGROUND, BalancedSampler
from keras_spm.layers import macs
from tests.heads.boxes import matches_of, roi_weights
from tests.helpers import difference, random_array, randomize, tiny_backbone, to_numpy
from tests.losses.differences import value_and_gradient

SMALL = {"pyramid_channels": 4, "rpn_channels": 4, "box_head_channels": 6, "mask_head_channels": 3}
CLASSES, CHANNELS = 3, 4
HEIGHT, WIDTH = 64, 96
LEVELS = {"P2": (16, 24), "P3": (8, 12), "P4": (4, 6), "P5": (2, 3), "P6": (1, 2)}
WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # Of the losses, so that each has its gradient.


def _head(**arguments):
    head = MaskRCNN(CLASSES, **SMALL, **{"max_proposals": 20, "seed": 0, **arguments})
    head.build({level: (None, *LEVELS[level], 5) for level in head.levels})
    return randomize(head)


def _outputs(seed=0):
    """Random outputs for two images."""
    shapes = {"objectness": (), "deltas": (4,), "pyramid": (CHANNELS,)}
    outputs = {
        name: {
            level: random_array(2, *size, *end, seed=seed + int(level[1]))
            if name == "pyramid"
            else random_array(2, size[0] * size[1] * 3, *end, seed=seed + 10 * int(level[1]))
            for level, size in LEVELS.items()
        }
        for name, end in shapes.items()
    }
    outputs["deltas"] = {level: 0.1 * each for level, each in outputs["deltas"].items()}
    anchors = _head().rpn.anchors(outputs["pyramid"])
    return {**outputs, "anchors": {level: to_numpy(each) for level, each in anchors.items()}}


def _targets():
    """Three objects; one, which is not trained on, and padding."""
    boxes = np.zeros((2, 3, 4), "float32")
    # No anchor is within one of them: exact ties would depend on rounding.
    boxes[0] = [[3.3, 5.1, 35.2, 40.7], [50.3, 2.2, 84.9, 30.4], [0, 0, 20, 20]]
    boxes[1, 0] = 50.7, 20.3, 80.1, 55.9
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    left, top, right, bottom = np.moveaxis(boxes[..., None, None].astype("float64"), 2, 0)
    distances = ((2 * columns - left - right) / (right - left + 1)) ** 2
    masks = distances + ((2 * rows - top - bottom) / (bottom - top + 1)) ** 2 < 0.9
    return {
        "boxes": boxes,
        "labels": np.array([[0, 2, 1], [1, -1, -1]], "int32"),
        "crowd": np.array([[False, False, True], [False] * 3]),
        "masks": masks,
    }


# The losses by their definition, in float64.


def _encoded(references, boxes, stds):
    sides, references_sides = boxes[:, 2:] - boxes[:, :2], references[:, 2:] - references[:, :2]
    offsets = (boxes[:, :2] + boxes[:, 2:] - references[:, :2] - references[:, 2:]) / 2
    deltas = np.concatenate([offsets / references_sides, np.log(sides / references_sides)], axis=1)
    return deltas / stds


def _cross_entropies(truth, logits):
    return np.logaddexp(0, logits) - truth * logits


def _conv(maps, kernel, bias):
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    _, height, width, _ = maps.shape
    taps = (
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    return np.maximum(sum(taps) + bias, 0)


def _masks(head, features):
    weights = [to_numpy(each).astype("float64") for each in head.mask_head.weights]
    for kernel, bias in zip(weights[:8:2], weights[1:8:2], strict=True):
        features = _conv(features, kernel, bias)
    count, height, width, _ = features.shape
    upsampled = np.einsum("rhwc,ijoc->rhiwjo", features, weights[8]) + weights[9]
    upsampled = np.maximum(upsampled.reshape(count, 2 * height, 2 * width, -1), 0)
    return upsampled @ weights[10][0, 0] + weights[11]


def _pool(pyramid, image, boxes, bins):
    """All boxes are small enough for P2."""
    weights = np.stack([roi_weights(box, 4, LEVELS["P2"], bins, 0) for box in boxes])
    return np.einsum("rijyx,yxc->rijc", weights, pyramid["P2"][image])


def _reference_losses(head, samples, targets, outputs):
    """Returns the five losses for samplers that take everything, given the proposals."""
    logits, deltas = (
        np.concatenate(list(outputs[name].values()), axis=1) for name in ("objectness", "deltas")
    )
    anchors = np.concatenate(list(outputs["anchors"].values())).astype("float64")
    labels = np.where(targets["crowd"], -1, targets["labels"])
    weights = [to_numpy(each).astype("float64") for each in head.box_head.weights]
    sums, counts = np.zeros(5), np.zeros(3)
    for image in range(2):
        boxes = targets["boxes"][image].astype("float64")
        matches = np.array(matches_of(anchors, boxes, labels[image], 0.7, 0.3, True, 0.3))
        positive, sampled = matches >= 0, matches >= BACKGROUND
        entropies = _cross_entropies(positive, logits[image])
        encoded = _encoded(anchors[positive], boxes[matches[positive]], 1)
        sums[0] += entropies[sampled].sum()
        sums[1] += np.abs(encoded - deltas[image][positive]).sum()

        rois, roi_matches = samples[image]
        features = _pool(outputs["pyramid"], image, rois, 7).reshape(len(rois), -1)
        for kernel, bias in (weights[:2], weights[2:4]):
            features = np.maximum(features @ kernel + bias, 0)
        class_logits = features @ weights[4] + weights[5]
        box_deltas = (features @ weights[6] + weights[7]).reshape(len(rois), CLASSES, 4)
        found = roi_matches >= 0
        classes = np.where(found, labels[image][roi_matches], CLASSES)
        logarithms = np.log(np.exp(class_logits).sum(axis=1))
        sums[2] += (logarithms - class_logits[np.arange(len(rois)), classes]).sum()
        true_boxes, true_classes = boxes[roi_matches[found]], classes[found]
        encoded = _encoded(rois[found], true_boxes, [0.1, 0.1, 0.2, 0.2])
        sums[3] += np.abs(encoded - box_deltas[found, true_classes]).sum()

        mask_logits = _masks(head, _pool(outputs["pyramid"], image, rois[found], 14))
        for roi, index, each in zip(rois[found], roi_matches[found], mask_logits, strict=True):
            crop = roi_weights(roi, 1, (HEIGHT, WIDTH), 28, 0)
            crop = np.einsum("ijyx,yx->ij", crop, targets["masks"][image, index])
            sums[4] += _cross_entropies(crop >= 0.5, each[..., labels[image][index]]).mean()
        counts += [sampled.sum(), len(rois), found.sum()]
    return sums / counts[[0, 0, 1, 1, 2]]


def _flatten(outputs):
    parts = [
        outputs[name][level] for name in ("objectness", "deltas", "pyramid") for level in LEVELS
    ]
    return np.concatenate([np.ravel(part) for part in parts])


def _unflatten(vector, outputs):
    reshape = np.reshape if isinstance(vector, np.ndarray) else ops.reshape
    result, start = {"anchors": outputs["anchors"]}, 0
    for name in ("objectness", "deltas", "pyramid"):
        result[name] = {}
        for level in LEVELS:
            shape = outputs[name][level].shape
            end = start + int(np.prod(shape))
            result[name][level] = reshape(vector[start:end], shape)
            start = end
    return result


@pytest.mark.only("torch")  # The goldens compare the losses on all backends.
def test_losses_and_gradients_are_the_definition():
    head, outputs, targets = _head(), _outputs(), _targets()
    head.rpn.sampler = BalancedSampler(1542, 1.0, seed=0)
    head.sampler = BalancedSampler(23, 1.0, seed=0)
    vector = _flatten(outputs)

    def losses(vector):
        unflattened = _unflatten(vector, outputs)
        found = head.compute_losses(unflattened, targets)
        found = ops.stack([ops.sum(found[name]) for name in head.loss_names])
        return ops.multiply(found, WEIGHTS.astype("float32"))

    found, gradient = value_and_gradient(losses, vector)
    sampled = head._sample(
        outputs, targets["boxes"], np.where(targets["crowd"], -1, targets["labels"])
    )
    samples = [
        (boxes[matches >= BACKGROUND].astype("float64"), matches[matches >= BACKGROUND])
        for boxes, matches in zip(*map(to_numpy, sampled[:2]), strict=True)
    ]
    # The boxes of the objects are among the samples.
    assert [(matches >= 0).any() for _, matches in samples] == [True, True]

    def reference(vector):
        return _reference_losses(head, samples, targets, _unflatten(vector, outputs)) * WEIGHTS

    vector = vector.astype("float64")
    np.testing.assert_allclose(found, reference(vector), rtol=1e-4)
    # Along random directions of objectness, of deltas and of the maps of P2.
    numbers = [sum(part.size for part in outputs[name].values()) for name in outputs]
    bounds = np.cumsum([0, numbers[0], numbers[1], outputs["pyramid"]["P2"].size])
    generator, step = np.random.default_rng(0), 1e-6
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        direction = np.zeros_like(vector)
        direction[start:end] = generator.normal(size=end - start)
        change = reference(vector + step * direction) - reference(vector - step * direction)
        expected = change.sum() / (2 * step)
        scale = np.linalg.norm(gradient[start:end])
        assert scale > 0 and abs(gradient @ direction - expected) <= 1e-3 * scale
    assert not gradient[bounds[-1] :].any()


def _losses(head, outputs, targets, **arguments):
    found = head.compute_losses(outputs, targets, **arguments)
    return {name: to_numpy(each) for name, each in found.items()}


@pytest.mark.only("torch")
def test_sample_weights_and_crowds():
    head, outputs, targets = _head(), _outputs(), _targets()
    head.rpn.sampler = BalancedSampler(1542, 1.0, seed=0)
    head.sampler = BalancedSampler(23, 1.0, seed=0)
    found = _losses(head, outputs, targets)
    weighted = _losses(head, outputs, targets, sample_weight=np.float32([2, 0]))
    # A crowd is as if it were not there.
    without = {name: each for name, each in targets.items() if name != "crowd"}
    without["labels"] = np.where(targets["crowd"], -1, targets["labels"])
    without["boxes"] = np.where(targets["crowd"][..., None], np.float32(7), targets["boxes"])
    for name, each in _losses(head, outputs, without).items():
        assert difference(each, found[name]) <= 1e-6
        assert difference(weighted[name], found[name] * [2, 0]) <= 1e-6


@pytest.mark.graph
@pytest.mark.only("torch")  # tests/tasks/test_instance_segmenter.py trains on all backends.
def test_images_without_objects():
    """Also if there is no entry for an object, of a number that the graph does not know."""
    head, outputs = _head(), _outputs()

    def losses(boxes, labels, masks):
        return head.compute_losses(outputs, {"boxes": boxes, "labels": labels, "masks": masks})

    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec((2, None, 4)), tf.TensorSpec((2, None), "int32")]
        signature.append(tf.TensorSpec((2, None, None, None), "bool"))
        losses = tf.function(losses, input_signature=signature)
    # JAX compiles every operation for every size.
    for count in (0,) if keras.config.backend() == "jax" else (0, 2):
        found = losses(
            np.zeros((2, count, 4), "float32"),
            np.full((2, count), -1, "int32"),
            np.zeros((2, count, HEIGHT, WIDTH), bool),
        )
        found = {name: to_numpy(each) for name, each in found.items()}
        assert all(np.isfinite(each).all() and each.shape == (2,) for each in found.values())
        assert found["rpn_classification_loss"].min() > 0
        assert found["classification_loss"].min() > 0
        assert not any(found[name].any() for name in ("rpn_box_loss", "box_loss", "mask_loss"))


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["objectness", "deltas"])
def test_values_that_are_no_numbers_take_no_place(name):
    """More of them than candidates of a level: they must not displace the others."""
    head, outputs = _head(max_detections=30, score_threshold=0.0), _outputs()
    broken = {level: each.copy() for level, each in outputs[name].items()}
    for level in LEVELS:
        broken[level][0, ::2] = np.nan
    found = head.decode({**outputs, name: broken}, (HEIGHT, WIDTH))
    found = {key: to_numpy(each) for key, each in found.items()}
    assert all(np.isfinite(each).all() for each in found.values())
    assert (found["labels"][0] >= 0).sum() > 5
    # The other image is not affected.
    expected = head.decode(outputs, (HEIGHT, WIDTH))
    assert all(difference(found[key][1], expected[key][1]) <= 1e-6 for key in found)


@pytest.mark.only("torch")
def test_detections_are_padded():
    head, outputs = _head(max_detections=400, score_threshold=0.3), _outputs()
    found = {key: to_numpy(each) for key, each in head.decode(outputs, (HEIGHT, WIDTH)).items()}
    padding = found["labels"] < 0
    assert 0 < (~padding).sum() < 60
    assert (found["scores"][~padding] > 0.3).all()
    assert (found["labels"][padding] == -1).all()
    assert not any(found[name][padding].any() for name in ("boxes", "scores", "masks"))
    assert found["masks"].shape == (2, 400, 28, 28)
    assert found["masks"][~padding].min() > 0 and found["masks"].max() < 1


@pytest.mark.only("torch")
def test_a_thousand_classes():
    head = MaskRCNN(1000, **SMALL, max_proposals=20, seed=0)
    head.build({level: (None, *LEVELS[level], 5) for level in head.levels})
    targets = {**_targets(), "labels": np.array([[0, 999, 1], [500, -1, -1]])}
    assert all(np.isfinite(each).all() for each in _losses(head, _outputs(), targets).values())
    assert to_numpy(head.decode(_outputs(), (HEIGHT, WIDTH))["labels"]).max() < 1000


# Whole models


@pytest.mark.only("torch")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_training(policy, tmp_path):
    """All variables learn; what was saved predicts the same."""
    targets = {name: each for name, each in _targets().items() if name != "crowd"}
    images = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), "uint8")
    head = MaskRCNN(**SMALL, max_proposals=20, max_detections=5, score_threshold=0.1, seed=0)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras_spm.ObjectDetector(tiny_backbone(), CLASSES, head)
    finally:
        keras.config.set_dtype_policy("float32")
    randomize(model)
    model.compile(keras.optimizers.SGD(1e-2), metrics=[])
    before = [to_numpy(variable) for variable in model.trainable_variables]
    logs = model.train_on_batch(images, targets, return_dict=True)
    assert set(head.loss_names) <= logs.keys() and np.isfinite(list(logs.values())).all()
    after = [to_numpy(variable) for variable in model.trainable_variables]
    same = [
        variable.path
        for variable, old, new in zip(model.trainable_variables, before, after, strict=True)
        if (old == new).all()
    ]
    assert not same
    assert not any(np.isnan(each).any() for each in after)
    if policy == "float32":
        model.save(tmp_path / "model.keras")
        found, expected = (
            each.predict_on_batch(images)
            for each in (keras.saving.load_model(tmp_path / "model.keras"), model)
        )
        assert all(difference(found[name], expected[name]) == 0 for name in expected)
        assert expected["masks"].shape == (2, 5, 28, 28)


# Sizes


def _parameters(channels, hidden, fc, classes, mask_channels=None):
    """The parameters of mmdetection's heads, layer by layer."""
    conv = lambda size, inputs, outputs: size**2 * inputs * outputs + outputs  # noqa: E731
    total = sum(conv(1, each, hidden) + conv(3, hidden, hidden) for each in channels)
    total += conv(3, hidden, hidden) + conv(1, hidden, 3) + conv(1, hidden, 12)
    total += conv(7, hidden, fc) + conv(1, fc, fc)
    total += conv(1, fc, classes + 1) + conv(1, fc, 4 * classes)
    if mask_channels:
        total += conv(3, hidden, mask_channels) + 3 * conv(3, mask_channels, mask_channels)
        total += conv(2, mask_channels, mask_channels) + conv(1, mask_channels, classes)
    return total


@pytest.mark.only("torch")
@pytest.mark.parametrize("head", [FasterRCNN, MaskRCNN])
def test_parameters_and_macs_of_the_published_heads(head):
    """On PVT v2 b2 at 512x512: 1000 proposals, 100 masks of the class of each detection."""
    backbone = keras_spm.PVTv2.from_preset("b2", load_weights=False)
    model = keras_spm.ObjectDetector(backbone, 80, head())
    with_masks = head is MaskRCNN
    expected = _parameters((64, 128, 320, 512), 256, 1024, 80, 256 if with_masks else None)
    assert model.count_params() - backbone.count_params() == expected
    if with_masks:  # The paper states 45.0 million for the detector, without a classifier.
        assert model.count_params() == pytest.approx(45.0e6, rel=2e-3)
    cells = [(512 // stride) ** 2 for stride in (4, 8, 16, 32, 64)]
    laterals = zip(cells, (64, 128, 320, 512), strict=False)
    pyramid = sum(count * inputs * 256 for count, inputs in laterals)
    pyramid += sum(cells[:4]) * 9 * 256**2
    proposals = sum(cells) * (9 * 256**2 + 256 * 15)
    boxes = 1000 * (49 * 256 * 1024 + 1024**2 + 1024 * (81 + 320))
    masks = 100 * (4 * 14**2 * 9 * 256**2 + 28**2 * (256**2 + 256)) if with_masks else 0
    shape = (1, 512, 512, 3)
    found = model.macs(shape) - macs(backbone, shape)
    assert found == pyramid + proposals + boxes + masks
