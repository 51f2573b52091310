"""Training, evaluation and prediction with the object detector."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_spm import ObjectDetector, PVTv2, SemanticSegmenter
from keras_spm.data import DetectionBatching, ImageBatching
from keras_spm.heads import RetinaNet
from keras_spm.weights import FormatError
from tests import golden
from tests.heads.boxes import intersection_over_union
from tests.helpers import conv_backbone, difference, randomize, to_numpy


def _detector(head=None, **arguments):
    """Returns a small detector, with arguments of `RetinaNet` and of the task."""
    small = {"pyramid_channels": 8, "channels": 8, "num_convs": 1, "max_detections": 5}
    return ObjectDetector(conv_backbone(), 3, RetinaNet(**{**small, **(head or {})}), **arguments)


def _examples(count=4):
    """Images with two objects, one object, one crowd, and none."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 64, 64, 3), dtype="uint8")
    boxes = np.zeros((count, 2, 4), "float32")
    boxes[:, 0], boxes[:, 1] = [4, 8, 40, 60], [20, 16, 52, 44]
    labels = np.array([[0, 2], [1, -1], [1, -1], [-1, -1]], "int32")
    crowd = np.zeros((count, 2), bool)
    crowd[2, 0] = True
    return images, {"boxes": boxes, "labels": labels, "crowd": crowd}


def _without_objects():
    images, targets = _examples()
    targets["labels"][:] = -1
    targets["boxes"][:] = 0
    return images, targets


@pytest.fixture(scope="module")
def model():
    return golden.randomize_task(_detector({"score_threshold": 0.3}))


@pytest.fixture(scope="module")
def detector():
    """One whose backbone has presets."""
    return golden.random_detector()


# Losses


def _l1(anchor, deltas, box):
    return np.abs(deltas - _deltas(anchor, box)).sum()


def _smooth_l1(anchor, deltas, box):
    distances = np.abs(deltas - _deltas(anchor, box))
    return np.where(distances < 1 / 9, distances**2 * 9 / 2, distances - 1 / 18).sum()


def _generalized_iou(anchor, deltas, box):
    sizes = anchor[2:] - anchor[:2]
    center = (anchor[2:] + anchor[:2]) / 2 + deltas[:2] * sizes
    halves = sizes * np.exp(np.minimum(deltas[2:], np.log(1000 / 16))) / 2
    found = np.concatenate([center - halves, center + halves])
    enclosing = np.prod(np.maximum(found[2:], box[2:]) - np.minimum(found[:2], box[:2]))
    areas = np.prod(found[2:] - found[:2]) + np.prod(box[2:] - box[:2])
    overlap = intersection_over_union(found, box)
    union = areas / (1 + overlap)
    return 1 - overlap + (enclosing - union) / enclosing


_BOX_LOSSES = {"l1": _l1, "smooth_l1": _smooth_l1, "generalized_iou": _generalized_iou}
# tests/losses/ checks each of them on every backend.
box_losses = pytest.mark.parametrize(
    "box_loss", _BOX_LOSSES if keras.config.backend() == "torch" else ["generalized_iou"]
)


def _raw_outputs(model, images):
    """Returns logits, deltas and anchors of all levels in float64."""
    outputs = model(images)
    axes = {"logits": 1, "deltas": 1, "anchors": 0}
    return {
        name: np.concatenate([to_numpy(each) for each in outputs[name].values()], axis=axis).astype(
            "float64"
        )
        for name, axis in axes.items()
    }


def _plain_losses(model, images, targets):
    """RetinaNet's losses, anchor by anchor, in float64."""
    outputs = _raw_outputs(model, images)
    anchors = outputs["anchors"]
    classification, boxes, objects = 0, 0, 0
    for image in range(len(images)):
        valid = (targets["labels"][image] >= 0) & ~targets["crowd"][image]
        truth, labels = targets["boxes"][image][valid], targets["labels"][image][valid]
        overlaps = np.array([[intersection_over_union(a, box) for box in truth] for a in anchors])
        overlaps = overlaps.reshape(len(anchors), len(truth))
        for index, row in enumerate(overlaps):
            best = row.argmax() if len(row) else None
            # The last object whose best anchor this is, even if another overlaps it more.
            low_quality = np.flatnonzero((row == overlaps.max(0)) & (row > 0))
            if len(low_quality):
                best = low_quality[-1]
            elif not len(row) or row[best] < 0.4:
                best = None
            elif row[best] < 0.5:
                continue
            probabilities = 1 / (1 + np.exp(-outputs["logits"][image, index]))
            for label, probability in enumerate(probabilities):
                if best is not None and label == labels[best]:
                    classification -= 0.25 * (1 - probability) ** 2 * np.log(probability)
                else:
                    classification -= 0.75 * probability**2 * np.log(1 - probability)
            if best is not None:
                objects += 1
                deltas = outputs["deltas"][image, index]
                boxes += _BOX_LOSSES[model.detector.box_loss](anchors[index], deltas, truth[best])
    return classification / max(objects, 1), boxes / max(objects, 1)


def _deltas(anchor, box):
    (x, y, width, height), (to_x, to_y, to_width, to_height) = (
        ((each[0] + each[2]) / 2, (each[1] + each[3]) / 2, each[2] - each[0], each[3] - each[1])
        for each in (anchor, box)
    )
    shifts = [(to_x - x) / width, (to_y - y) / height]
    return np.array([*shifts, np.log(to_width / width), np.log(to_height / height)])


@box_losses
def test_the_losses_are_those_of_retinanet(model, box_loss):
    images, targets = _examples()
    other = _detector({"box_loss": box_loss})
    other.set_weights(model.get_weights())
    losses = other.image_losses(targets, other(images))
    assert list(losses) == ["classification_loss", "box_loss"]
    expected = _plain_losses(other, images, targets)
    found = [to_numpy(loss).sum() for loss in losses.values()]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.only("torch")
def test_evaluation_and_training_average_the_losses(model):
    """Over the images, in batches of different sizes."""
    images, targets = _examples()
    batches = []
    for rows in slice(0, 3), slice(3, 4):
        batch = {name: array[rows] for name, array in targets.items()}
        losses = model.image_losses(batch, model(images[rows]))
        batches.append([to_numpy(loss).sum() for loss in losses.values()])
    classification, boxes = np.average(batches, axis=0, weights=[3, 1])
    logs = model.evaluate(images, targets, batch_size=3, verbose=0, return_dict=True)
    again = _detector()
    again.set_weights(model.get_weights())
    again.freeze()  # Without drop path, training computes the same.
    again.compile(keras.optimizers.SGD(0.0))
    history = again.fit(images, targets, batch_size=3, shuffle=False, verbose=0).history
    for found in (logs, {name: values[0] for name, values in history.items()}):
        assert found["classification_loss"] == pytest.approx(classification, rel=1e-5)
        assert found["box_loss"] == pytest.approx(boxes, rel=1e-5)
        assert found["loss"] == pytest.approx(classification + boxes, rel=1e-5)


@box_losses
def test_images_without_objects_count_as_background(model, box_loss):
    """Also in a batch without any object."""
    images, targets = _without_objects()
    other = _detector({"box_loss": box_loss})
    other.set_weights(model.get_weights())
    classification, boxes = _plain_losses(other, images, targets)
    assert classification > 0 and boxes == 0
    losses = other.image_losses(targets, other(images))
    found = [to_numpy(loss).sum() for loss in losses.values()]
    assert found == pytest.approx([classification, 0], rel=1e-5)


@pytest.mark.only("torch")
def test_evaluation_of_images_without_objects(model):
    images, targets = _without_objects()
    logs = model.evaluate(images, targets, verbose=0, return_dict=True)
    assert logs["classification_loss"] > 0 and logs["box_loss"] == 0
    assert logs["AP"] == -1


@pytest.mark.only("torch")  # The gradients of all losses are checked on every backend.
@pytest.mark.parametrize("box_loss", _BOX_LOSSES)
def test_training_step_on_images_without_objects_is_finite(box_loss):
    model = _detector({"box_loss": box_loss})
    (loss,) = model.fit(*_without_objects(), verbose=0).history["loss"]
    assert loss > 0 and all(np.isfinite(weights).all() for weights in model.get_weights())


@pytest.mark.only("torch")
def test_sample_weights(model):
    images, targets = _examples()
    outputs, weights = model(images), np.float32([0, 1, 2, 3])
    losses = model.image_losses(targets, outputs)
    expected = {name: to_numpy(loss) * weights for name, loss in losses.items()}
    weighted = model.image_losses(targets, outputs, keras.ops.convert_to_tensor(weights))
    for name, loss in weighted.items():
        assert difference(loss, expected[name]) <= 1e-5 * expected[name].max()
    logs = model.evaluate(
        images, targets, batch_size=4, sample_weight=weights, verbose=0, return_dict=True
    )
    for name, loss in expected.items():
        assert logs[name] == pytest.approx(loss.sum(), rel=1e-5)
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape \(batch,\)"):
        model.image_losses(targets, outputs, weights[:, None])


@pytest.mark.only("torch")  # Keras hands the weights over in the same way on all backends.
def test_sample_weights_in_fit(model):
    images, targets = _examples()
    again = _detector()
    again.set_weights(model.get_weights())
    again.compile(keras.optimizers.SGD(0.0), metrics=[])
    plain = again.fit(images, targets, verbose=0).history
    twice = again.fit(images, targets, sample_weight=np.full(4, 2.0), verbose=0).history
    for name in ("loss", "classification_loss", "box_loss"):
        assert twice[name][0] == pytest.approx(2 * plain[name][0], rel=1e-5)


@pytest.mark.only("torch")
def test_batches_with_different_numbers_of_objects(model):
    images, targets = _examples()

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            rows = slice(2 * index, 2 * index + 2)
            # The last two images have one object, and none.
            slots = slice(0, 2 - index)
            return images[rows], {name: each[rows, slots] for name, each in targets.items()}

    expected = model.evaluate(images, targets, batch_size=2, verbose=0, return_dict=True)
    found = model.evaluate(Batches(), verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-6)


_ON_TWO_REPLICAS = """
import numpy as np, tensorflow as tf
(cpu, *_) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from tests.tasks import test_object_detector as module
images, targets = module._examples()
targets["crowd"] = targets["crowd"].astype("uint8")  # TensorFlow distributes no bools.
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = module._detector()
    model.compile(keras.optimizers.SGD(0.5), metrics=[])
    module.randomize(model)
    before = model.get_weights()
    logs = model.fit(images, targets, batch_size=4, shuffle=False, verbose=0).history
after = model.get_weights()
parts = logs["classification_loss"][0] + logs["box_loss"][0]
assert abs(logs["loss"][0] - parts) <= 1e-5 * parts, (logs, parts)
# The step of one replica on the whole batch.
alone = module._detector()
alone.set_weights(before)
with tf.GradientTape() as tape:
    loss = alone.compute_loss(images, targets, alone(images, training=True))
assert abs(logs["loss"][0] - float(loss)) <= 1e-5 * float(loss), (logs, loss)
variables = alone.trainable_variables
gradients = tape.gradient(loss, [each.value for each in variables])
by_path = dict(zip([each.path for each in model.weights], zip(before, after)))
for variable, gradient in zip(variables, gradients):
    old, new = by_path[variable.path]
    scale = max(np.abs(gradient).max(), 1)
    assert np.abs((old - new) / 0.5 - gradient).max() <= 1e-4 * scale, variable.path
"""


@pytest.mark.graph
@pytest.mark.only("tensorflow")
def test_two_replicas():
    """Loss and gradients are those of the whole batch, also outside of `data_parallel`."""
    subprocess.run([sys.executable, "-c", _ON_TWO_REPLICAS], check=True)


@pytest.mark.graph
def test_training_lowers_the_loss():
    """Also through decoded boxes."""
    images, targets = _examples()
    model = _detector({"box_loss": "generalized_iou"})
    model.compile(keras.optimizers.SGD(1e-3), metrics=[])
    losses = model.fit(images, targets, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]


@pytest.mark.graph
@pytest.mark.parametrize(
    "policy",
    # float16 has the smaller range: on every backend.
    ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.only("torch"))],
)
def test_mixed_precision_stays_finite(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = _detector()
    finally:
        keras.config.set_dtype_policy("float32")
    images, targets = _examples()
    assert np.isfinite(model.fit(images, targets, verbose=0).history["loss"]).all()
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    outputs = keras.tree.flatten(model(images))
    assert {to_numpy(each).dtype for each in outputs} == {np.dtype("float32")}


# Detections


def test_predictions_are_decoded_raw_outputs(model):
    """Every detection is an anchor with its deltas and its score."""
    images, _ = _examples()
    found = model.predict(images, verbose=0)
    assert {name: each.shape for name, each in found.items()} == {
        "boxes": (4, 5, 4),
        "scores": (4, 5),
        "labels": (4, 5),
    }
    outputs = _raw_outputs(model, images)
    probabilities = 1 / (1 + np.exp(-outputs["logits"]))
    anchors, deltas = outputs["anchors"], outputs["deltas"]
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, 2:] + anchors[:, :2]) / 2 + deltas[..., :2] * sizes
    sizes = sizes * np.exp(np.minimum(deltas[..., 2:], np.log(1000 / 16)))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], -1).clip(0, 64)
    for image in range(4):
        best = probabilities[image].max()
        assert found["scores"][image, 0] == pytest.approx(best, abs=1e-6) and best > 0.3
        columns = (found[name][image] for name in ("boxes", "scores", "labels"))
        for box, score, label in zip(*columns, strict=True):
            matches = np.abs(probabilities[image, :, label] - score) <= 1e-6
            assert np.abs(boxes[image][matches] - box).max(axis=-1).min() <= 1e-4


@pytest.mark.graph
@pytest.mark.only("torch")
def test_detect_returns_boxes_in_pixels_of_the_original_image(model, tmp_path):
    """In an image of twice the size, boxes are twice as large."""
    pixels = np.random.default_rng(2).integers(0, 256, (128, 128, 3), dtype="uint8")
    image = Image.fromarray(pixels)
    image.save(tmp_path / "large.png")
    halving = _detector({"score_threshold": 0.3}, batching={"min_size": 64})
    halving.set_weights(model.get_weights())
    (expected,) = model.detect([image.resize((64, 64), Image.Resampling.BILINEAR)])
    (found,) = halving.detect([tmp_path / "large.png"])
    assert len(found["labels"]) and (found["labels"] == expected["labels"]).all()
    assert difference(found["boxes"], 2 * expected["boxes"]) <= 1e-4
    assert difference(found["scores"], expected["scores"]) <= 1e-6


@pytest.mark.only("torch")
def test_images_of_several_sizes(model):
    generator = np.random.default_rng(1)
    sizes = [(40, 70), (64, 64), (33, 90)]
    images = [generator.integers(0, 256, (*size, 3), dtype="uint8") for size in sizes]
    for (height, width), found in zip(sizes, model.detect(images, batch_size=2), strict=True):
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= [width, height] * 2).all()
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()
        assert (np.diff(found["scores"]) <= 0).all()


@pytest.mark.only("torch")
def test_other_box_formats(model):
    images, targets = _examples()
    other = _detector({"score_threshold": 0.3}, bounding_box_format="xywh")
    other.set_weights(model.get_weights())
    expected, found = (each.predict(images, verbose=0) for each in (model, other))
    corner, size = found["boxes"][..., :2], found["boxes"][..., 2:]
    xyxy = np.concatenate([corner, corner + size], axis=-1)
    assert difference(xyxy, expected["boxes"]) <= 1e-4
    boxes = targets["boxes"].copy()
    boxes[..., 2:] -= boxes[..., :2]
    logs = [
        each.evaluate(images, {**targets, "boxes": given}, verbose=0, return_dict=True)
        for each, given in ((model, targets["boxes"]), (other, boxes))
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)


# Evaluation


def test_evaluation_agrees_with_pycocotools(model, tmp_path):
    """For images of several sizes, which are padded in their batch."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, _ = _examples()
    sizes = [(64, 64), (40, 64), (64, 50), (33, 41)]
    images = [image[:height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
    found = model.detect(images)
    # Some boxes reach into the padding and are clipped.
    assert any(
        (each["boxes"][:, 2] == size[1]).any() for each, size in zip(found, sizes, strict=True)
    )
    # The ground truth is near the first detections, so that some are correct.
    examples = []
    for image, detections in zip(images, found, strict=True):
        boxes = np.round(detections["boxes"][:3]) + np.float32([2, 0, 2, 0])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        labels = detections["labels"][:3]
        crowd = np.arange(3)[: len(labels)] == 2
        columns = {"boxes": boxes, "labels": labels, "crowd": crowd, "areas": areas}
        examples.append({"image": image, **columns})
    batch = DetectionBatching(ImageBatching(), max_objects=4)(examples)
    logs = model.evaluate(*batch, batch_size=3, verbose=0, return_dict=True)

    records, results = [], []
    for number, (example, detections) in enumerate(zip(examples, found, strict=True)):
        for box, label, crowd, area in zip(
            example["boxes"], example["labels"], example["crowd"], example["areas"], strict=True
        ):
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": number,
                    "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                    "category_id": int(label),
                    "iscrowd": int(crowd),
                    "area": float(area),
                }
            )
        for box, score, label in zip(*detections.values(), strict=True):
            box = [*box[:2].tolist(), *(box[2:].astype("float64") - box[:2]).tolist()]
            results.append(
                {"image_id": number, "bbox": box, "score": float(score), "category_id": int(label)}
            )
    contents = {
        "images": [{"id": number} for number in range(4)],
        "categories": [{"id": number} for number in range(3)],
        "annotations": records,
    }
    (tmp_path / "truth.json").write_text(json.dumps(contents))
    (tmp_path / "found.json").write_text(json.dumps(results))
    truth = COCO(tmp_path / "truth.json")
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    measured = [value for name, value in logs.items() if name.startswith("A")]
    assert 0 < measured[0] < 1
    assert measured == evaluation.stats.tolist()


@pytest.mark.only("torch")
def test_metrics_of_the_user(model):
    """In `evaluate`, and with the prefix `val_` in `fit`; also without any metric."""
    images, targets = _examples()

    def found_per_image(annotations, detections):
        assert [len(each["labels"]) for each in annotations] == [2, 1, 1, 0]
        return {"found": float(np.mean([len(each["labels"]) for each in detections]))}

    own = _detector({"score_threshold": 0.3})
    own.set_weights(model.get_weights())
    own.compile(keras.optimizers.SGD(0.0), metrics=[found_per_image])
    expected = np.mean([len(each["labels"]) for each in model.detect(list(images))])
    logs = own.evaluate(images, targets, verbose=0, return_dict=True)
    assert list(logs) == ["loss", "classification_loss", "box_loss", "found"]
    assert logs["found"] == expected > 0
    validation = {"validation_data": (images, targets), "verbose": 0}
    assert own.fit(images, targets, **validation).history["val_found"][0] > 0
    own.compile(metrics=[])
    logs = own.evaluate(images, targets, verbose=0, return_dict=True)
    assert list(logs) == ["loss", "classification_loss", "box_loss"]


# Presets


@pytest.mark.only("torch")
def test_preset_round_trip(detector, tmp_path):
    detector.save_to_preset(tmp_path / "folder")
    again = ObjectDetector.from_preset(tmp_path / "folder")
    assert again.load_report.missing_keys == ()
    assert again.detector.get_config() == detector.detector.get_config()
    assert all(map(np.array_equal, again.get_weights(), detector.get_weights()))
    # The backbone alone, and another task.
    backbone = PVTv2.from_preset(tmp_path / "folder")
    segmenter = SemanticSegmenter.from_preset(tmp_path / "folder", num_classes=5)
    values = detector.backbone.get_weights()
    for each in (backbone, segmenter.backbone):
        assert all(map(np.array_equal, each.get_weights(), values))
    missing = {path.split("/")[0] for path in segmenter.load_report.missing_keys}
    assert missing == {"decoder"}


@pytest.mark.only("torch")
def test_only_the_class_predictor_depends_on_the_number_of_classes(detector, tmp_path):
    detector.save_to_preset(tmp_path / "folder")
    other = ObjectDetector.from_preset(tmp_path / "folder", num_classes=5)
    names = {"detector/class_predictor/kernel", "detector/class_predictor/bias"}
    assert set(other.load_report.missing_keys) == names
    assert set(other.load_report.unexpected_keys) == names
    assert "missing keys: detector/class_predictor/" in str(other.load_report)
    ours = {variable.path: to_numpy(variable) for variable in detector.weights}
    for variable in other.weights:
        if variable.path not in names:
            assert (to_numpy(variable) == ours[variable.path]).all(), variable.path
    probabilities = 1 / (1 + np.exp(-to_numpy(other.detector.class_tower[-1].bias)))
    assert probabilities == pytest.approx(np.full(5 * 9, 0.01))
    # The configuration must match the weights.
    config = json.loads((tmp_path / "folder/config.json").read_text())
    task = config["task"]["config"]
    task["num_classes"] = task["detector"]["config"]["num_classes"] = 4
    (tmp_path / "folder/config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="weights for other classes than"):
        ObjectDetector.from_preset(tmp_path / "folder")


@pytest.mark.only("torch")
def test_backbone_weights_from_a_classifier(tmp_path):
    classifier = randomize(golden.classifier("pvt_v2"))
    classifier.save_to_preset(tmp_path / "folder")
    detector = ObjectDetector.from_preset(tmp_path / "folder", num_classes=2)
    values = classifier.backbone.get_weights()
    assert all(map(np.array_equal, detector.backbone.get_weights(), values))
    assert detector.mean == classifier.mean and detector.class_names is None
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        ObjectDetector.from_preset(tmp_path / "folder")
    named = ObjectDetector.from_preset("pvt_v2_b0", load_weights=False, num_classes=2)
    assert named.num_classes == 2
    with pytest.raises(TypeError, match="bounding_box_fromat"):
        _detector(bounding_box_fromat="xyxy")
