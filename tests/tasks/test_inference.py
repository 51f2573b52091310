"""Windows of large images, flipped images, and merged detections."""

import numpy as np
import pytest

from keras_spm import ImageClassifier, SemanticSegmenter
from keras_spm.heads import SemanticFPN
from keras_spm.tasks.inference import Views, merge_detections
from tests import golden
from tests.heads.boxes import greedy_suppression, intersection_over_union
from tests.helpers import conv_backbone, difference, error_message, tiny_backbone

torch_only = pytest.mark.only("torch")  # Does not depend on the backend.

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")


@pytest.fixture(scope="module")
def segmenter():
    decoder = SemanticFPN(pyramid_channels=8, channels=8)
    return golden.randomize_task(SemanticSegmenter(conv_backbone(), 3, decoder))


@pytest.fixture(scope="module")
def detector():
    return golden.distinct_detector(max_detections=20)


def _logits(segmenter, image, **arguments):
    (logits,) = segmenter.segment_logits(image, **arguments)
    return logits


# Windows


@torch_only
@pytest.mark.parametrize("overlap", [0, 0.25, 0.6])
@pytest.mark.parametrize("size", [(32, 200), (40, 33), (101, 64), (97, 129)])
def test_windows_cover_the_image(size, overlap):
    tile = (32, 64)
    windows = Views(tile, overlap).windows(size)
    seen = np.zeros(size, int)
    for left, top, right, bottom in windows:
        # All of the tile's size, or of the image's.
        assert (bottom - top, right - left) == tuple(map(min, size, tile))
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1 or overlap
    assert seen.min() >= 1
    assert len(set(windows)) == len(windows)
    for axis, length in ((1, size[0]), (0, size[1])):
        starts = sorted({window[axis] for window in windows})
        ends = sorted({window[axis + 2] for window in windows})
        assert (starts[0], ends[-1]) == (0, length)
        # Neighbors overlap by the share; all but the last by no more than a pixel above it.
        shared = np.array(ends[:-1]) - starts[1:]
        share = overlap * tile[1 - axis]
        assert (shared >= share).all() and (shared[:-1] < share + 1).all()


@torch_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 31}, "`tile` must be an integer of at least 32, or two of them, (height, width)"),
        ({"tile": (64,)}, "Received: tile=(64,)"),
        ({"tile": "64"}, "Received: tile='64'"),
        ({"tile": 64, "overlap": 1}, "`overlap` must be a finite number, at least 0 and below 1"),
        ({"tta": "flop"}, "Unknown tta 'flop'. Did you mean 'flip'?"),
    ],
)
def test_invalid_arguments(segmenter, detector, arguments, message):
    for predict in (segmenter.segment, detector.detect):
        assert message in error_message(predict, images=[IMAGE], **arguments)


# Segmentation


@torch_only
def test_an_image_that_is_not_larger_than_the_tile(segmenter, detector):
    expected = segmenter.predict(IMAGE[None], verbose=0)[0]
    for arguments in ({}, {"tile": 96}, {"tile": (96, 128), "overlap": 0.5}):
        assert difference(_logits(segmenter, IMAGE, **arguments), expected) <= 1e-5
        found, plain = detector.detect(IMAGE, **arguments), detector.detect(IMAGE)
        assert len(plain["labels"])
        assert all((found[name] == plain[name]).all() for name in plain)


def _mean_of_windows(segmenter, image):
    """The mean of the logits of 2 x 2 windows of 64 pixels, in a batch as `segment` makes it."""
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    windows = np.stack([image[top : top + 64, left : left + 64] for top, left in corners])
    logits = segmenter.predict(windows, verbose=0)
    total, count = np.zeros((96, 96, 3)), np.zeros((96, 96, 1))
    for (top, left), values in zip(corners, logits, strict=True):
        total[top : top + 64, left : left + 64] += values
        count[top : top + 64, left : left + 64] += 1
    assert set(np.unique(count)) == {1, 2, 4}
    return total / count


def test_logits_of_windows_are_averaged(segmenter):
    expected = _mean_of_windows(segmenter, IMAGE)
    assert difference(_logits(segmenter, IMAGE, tile=64), expected) <= 1e-5
    assert (segmenter.segment(IMAGE, tile=64) == expected.argmax(-1)).all()
    flipped = _mean_of_windows(segmenter, IMAGE[:, ::-1])[:, ::-1]
    found = _logits(segmenter, IMAGE, tile=64, tta="flip")
    assert difference(found, (expected + flipped) / 2) <= 1e-5


@torch_only
def test_several_images_in_windows(segmenter, detector):
    """Windows of several images share batches."""
    images = [IMAGE, IMAGE[:50, :70], IMAGE[:33, ::-1]]
    for batch_size in (1, 3):
        arguments = {"tile": 64, "tta": "flip", "batch_size": batch_size}
        maps = segmenter.segment(images, **arguments)
        assert [each.shape for each in maps] == [image.shape[:2] for image in images]
        assert (maps[0] == segmenter.segment(IMAGE, tile=64, tta="flip")).mean() > 0.999
        found = detector.detect(images, **arguments)
        for image, each in zip(images, found, strict=True):
            height, width = image.shape[:2]
            assert (each["boxes"] >= 0).all() and (each["boxes"] <= [width, height] * 2).all()
    assert segmenter.segment([], tile=64) == [] == detector.detect([], tile=64, tta="flip")


# Flips


def test_flips_of_dense_tasks_average_two_calls(segmenter, detector):
    expected = (_logits(segmenter, IMAGE) + _logits(segmenter, IMAGE[:, ::-1])[:, ::-1]) / 2
    assert difference(_logits(segmenter, IMAGE, tta="flip"), expected) <= 1e-5

    plain, flipped = detector.detect(IMAGE), detector.detect(IMAGE[:, ::-1])
    left, top, right, bottom = flipped["boxes"].T
    flipped["boxes"] = np.stack([96 - right, top, 96 - left, bottom], axis=1)
    together = {name: np.concatenate([plain[name], flipped[name]]) for name in plain}
    kept = greedy_suppression(*together.values(), 0.5, 20)
    found = detector.detect(IMAGE, tta="flip")
    assert (found["labels"] == together["labels"][kept]).all()
    assert difference(found["scores"], together["scores"][kept]) <= 1e-6
    assert difference(found["boxes"], together["boxes"][kept]) <= 1e-3


@torch_only
@pytest.mark.parametrize("multi_label", [False, True])
def test_flips_of_a_classifier_average_probabilities(multi_label):
    model = golden.randomize_task(ImageClassifier(tiny_backbone(), 5, multi_label=multi_label))
    images = np.stack([IMAGE, IMAGE.transpose(1, 0, 2)])[:, :64, :64]
    plain, flipped = (model.predict_images(each) for each in (images, images[:, :, ::-1]))
    assert difference(plain, flipped) > 1e-3
    expected = (np.stack(plain) + np.stack(flipped)) / 2
    assert difference(model.predict_images(images, tta="flip"), expected) <= 1e-6
    (name, probability), *_ = model.classify(images[0], tta="flip")
    assert probability == pytest.approx(expected[0].max(), abs=1e-6)
    assert int(name) == expected[0].argmax()


# Merged detections


def _seen(views, size, boxes, labels, generator):
    """Returns what a perfect detector finds in each view: the visible part of each object."""
    image = np.zeros((*size, 3), "uint8")
    results = []
    for view in views([image]):
        left, top, right, bottom = view.window
        visible = np.concatenate(
            [np.maximum(boxes[:, :2], [left, top]), np.minimum(boxes[:, 2:], [right, bottom])], 1
        )
        some = (visible[:, 2:] - visible[:, :2] >= 2).all(axis=1)
        visible = (visible - [left, top, left, top])[some]
        if view.flipped:
            width = right - left
            visible = np.stack(
                [width - visible[:, 2], visible[:, 1], width - visible[:, 0], visible[:, 3]], 1
            )
        scores = generator.uniform(0.1, 1, len(visible))
        results.append((view, {"boxes": visible, "scores": scores, "labels": labels[some]}))
    return results


def _check_all_found(found, boxes, labels):
    """Each object is detected once, with its whole box."""
    assert len(found["labels"]) == len(labels)
    assert (np.diff(found["scores"]) <= 0).all()
    order = [np.lexsort(np.column_stack([each, kind]).T) for each, kind in ((boxes, labels),)][0]
    other = np.lexsort(np.column_stack([found["boxes"], found["labels"]]).T)
    np.testing.assert_allclose(found["boxes"][other], boxes[order], atol=1e-3)
    assert (found["labels"][other] == labels[order]).all()


@torch_only
@pytest.mark.parametrize("tta", [None, "flip"])
@pytest.mark.parametrize("seed", range(5))
def test_objects_on_seams_are_detected_once(seed, tta):
    """Objects in the cells of a grid, of any position with respect to the windows."""
    generator = np.random.default_rng(seed)
    rows, columns = (each.ravel() for each in np.meshgrid(range(5), range(6), indexing="ij"))
    corners = np.stack([columns, rows], axis=1) * 40.0
    start, end = generator.uniform(0, 12, (30, 2)), generator.uniform(26, 38, (30, 2))
    boxes = np.concatenate([corners + start, corners + end], axis=1).round(1)
    labels = generator.integers(0, 2, 30)
    results = _seen(Views(64, 0.25, tta), (200, 240), boxes, labels, generator)
    assert sum(len(found["labels"]) for _, found in results) > 45
    _check_all_found(merge_detections(results, 0.5), boxes, labels)


@torch_only
def test_an_object_that_is_longer_than_a_window():
    """Its parts are joined, and objects inside of it and of another class are kept."""
    boxes = np.array([[10.0, 5, 290, 60], [100, 10, 120, 30], [130.0, 5, 170, 60]])
    labels = np.array([0, 0, 1])
    for seed in range(5):
        generator = np.random.default_rng(seed)
        results = _seen(Views(64, 0.25), (64, 300), boxes, labels, generator)
        _check_all_found(merge_detections(results, 0.5), boxes, labels)


@torch_only
def test_detections_of_a_model_in_windows(detector):
    """Of a real model: nothing is lost but what overlaps, and the best of all is first."""
    image = np.random.default_rng(1).integers(0, 256, (96, 150, 3), dtype="uint8")
    found = detector.detect(image, tile=64)
    single = []
    for left, top, right, bottom in Views(64).windows((96, 150)):
        each = detector.detect(image[top:bottom, left:right])
        each["boxes"] = each["boxes"] + np.float32([left, top, left, top])
        single.append(each)
    together = {name: np.concatenate([each[name] for each in single]) for name in found}
    assert 20 < len(found["labels"]) < len(together["labels"])
    assert found["scores"][0] == pytest.approx(together["scores"].max(), abs=1e-6)
    for index, (box, label) in enumerate(zip(found["boxes"], found["labels"], strict=True)):
        others = found["boxes"][:index][found["labels"][:index] == label]
        assert all(intersection_over_union(box, other) <= 0.5 for other in others)
    for box, label in zip(together["boxes"], together["labels"], strict=True):
        same = found["boxes"][found["labels"] == label]
        shared = (np.minimum(same[:, 2:], box[2:]) - np.maximum(same[:, :2], box[:2])).clip(0)
        assert (shared.prod(axis=1) > 0.3 * (box[2:] - box[:2]).prod()).any()
