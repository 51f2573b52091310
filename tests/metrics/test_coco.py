"""COCO average precision against pycocotools on JSON files of the same."""

import json
import sys
import typing

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_spm.metrics import Annotations
from keras_spm.metrics import coco_average_precision

CLASSES = 6
NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


class Detections(typing.NamedTuple):
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def _boxes(generator, count, largest):
    start = generator.uniform(0, 400, (count, 2))
    return np.concatenate([start, start + generator.uniform(2, largest, (count, 2))], axis=1)


def _image(generator, objects, found, largest, dtype):
    """Objects of classes 0 to 4, and detections of classes 0, 1, 2, 3 and 5, some right."""
    boxes = _boxes(generator, objects, largest)
    sides = boxes[:, 2:] - boxes[:, :2]
    annotations = Annotations(
        boxes.astype(dtype),
        generator.integers(0, 5, objects),
        generator.random(objects) < 0.2,
        (sides.prod(axis=1) * generator.uniform(0.4, 1, objects)).astype(dtype),
    )
    detected = _boxes(generator, found, largest)
    labels = generator.choice([0, 1, 2, 3, 5], found)
    if objects:
        # Half of them lie near an object, a tenth of those exactly on it.
        near = np.flatnonzero(generator.random(found) < 0.5)
        which = generator.integers(0, objects, len(near))
        detected[near] = boxes[which] + generator.normal(0, 0.06 * largest**0.5, (len(near), 4))
        labels[near] = np.where(annotations.labels[which] == 4, 5, annotations.labels[which])
        detected[near[::10]] = boxes[which[::10]]
    # One digit, so that many scores are the same.
    scores = generator.random(found).round(1)
    return annotations, Detections(detected.astype(dtype), scores.astype(dtype), labels)


def _data(seed, dtype="float32", images=12, most_objects=10, most_found=60, largest=250):
    generator = np.random.default_rng(seed)
    pairs = [
        _image(
            generator,
            # Every fourth image is empty, every third one has nothing found.
            generator.integers(1, most_objects) if number % 4 else 0,
            generator.integers(1, most_found) if number % 3 else 0,
            largest,
            dtype,
        )
        for number in range(images)
    ]
    return tuple(zip(*pairs, strict=True))


def _left_top_width_height(box):
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]


def _pycocotools(folder, annotations, detections, classes=range(CLASSES)):
    """Its `stats`, from files with other image and class numbers than ours."""
    truth = [
        {
            "image_id": 100 + number,
            "category_id": 1 + int(label),
            "bbox": _left_top_width_height(box),
            "iscrowd": int(crowd),
            "area": float(area),
        }
        for number, image in enumerate(annotations)
        for box, label, crowd, area in zip(*image, strict=True)
    ]
    found = [
        {
            "image_id": 100 + number,
            "category_id": 1 + int(label),
            "bbox": _left_top_width_height(box),
            "score": float(score),
        }
        for number, image in enumerate(detections)
        for box, score, label in zip(*image, strict=True)
    ]
    data = {
        "images": [{"id": 100 + number} for number in range(len(annotations))],
        "categories": [{"id": 1 + label} for label in range(CLASSES)],
        "annotations": [{"id": 1 + number, **each} for number, each in enumerate(truth)],
    }
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "found.json").write_text(json.dumps(found))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
    evaluation.params.catIds = [1 + label for label in classes]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


KINDS = {
    "mixed": {},
    "float64": {"dtype": "float64"},
    "float16": {"dtype": "float16"},
    "small": {"largest": 40},
    "large": {"largest": 600, "most_objects": 3},
    "many": {"images": 4, "most_objects": 40, "most_found": 1500},
    "one image": {"images": 2},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_pycocotools_says(tmp_path, capsys, kind, seed):
    annotations, detections = _data(seed, **KINDS[kind])
    results = coco_average_precision(annotations, detections)
    assert capsys.readouterr().out == ""
    assert all(type(value) is float for value in results.values())
    expected = _pycocotools(tmp_path, annotations, detections)
    assert results == dict(zip(NAMES, expected, strict=True))
    assert results["AP50"] > 0


def test_the_cases_are_there():
    annotations, detections = _data(0)
    assert {len(image.labels) > 0 for image in annotations} == {False, True}
    assert {len(image.labels) > 0 for image in detections} == {False, True}
    areas = np.concatenate([image.areas for image in annotations])
    assert set(np.digitize(areas, [32**2, 96**2])) == {0, 1, 2}
    assert {True, False} == {bool(each) for image in annotations for each in image.crowd}
    _, detections = _data(0, **KINDS["many"])
    assert max(np.bincount(image.labels).max() for image in detections if image.labels.size) > 100


def test_each_class(tmp_path):
    annotations, detections = _data(0)
    names = [f"class {label}" for label in range(CLASSES)]
    results = coco_average_precision(annotations, detections, names)
    expected = [
        _pycocotools(tmp_path, annotations, detections, [label])[0] for label in range(CLASSES)
    ]
    assert [results[f"AP/{name}"] for name in names] == expected
    # Never found, and never there.
    assert expected[4:] == [0, -1]
    precisions = [each for each in expected if each > -1]
    assert results["AP"] == pytest.approx(np.mean(precisions), abs=1e-12)
    del results["AP/class 5"]
    assert coco_average_precision(annotations, detections, names[:5]) == results


def _nothing_found(images):
    return [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in range(images)]


def test_nothing_found():
    """What is there is missed; pycocotools's `loadRes` refuses an empty file."""
    annotations, _ = _data(0)
    assert set(coco_average_precision(annotations, _nothing_found(12)).values()) == {0}
    annotations, _ = _data(0, largest=30)
    results = coco_average_precision(annotations, _nothing_found(12))
    assert {name for name, value in results.items() if value == -1} == {
        *("AP_medium", "AP_large", "AR_medium", "AR_large")
    }


def test_nothing_there():
    _, detections = _data(0)
    empty = Annotations(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0))
    for found in (detections, _nothing_found(12)):
        assert set(coco_average_precision([empty] * 12, found, ["a"]).values()) == {-1}
    crowd = Annotations(np.array([[0, 0, 9, 9]]), np.array([0]), np.array([True]), np.array([81]))
    assert set(coco_average_precision([crowd] * 12, detections).values()) == {-1}
    assert set(coco_average_precision([], []).values()) == {-1}


def test_all_found():
    annotations, _ = _data(0)
    detections = [
        Detections(
            image.boxes[~image.crowd], np.ones(sum(~image.crowd)), image.labels[~image.crowd]
        )
        for image in annotations
    ]
    results = coco_average_precision(annotations, detections)
    assert results["AP"] == pytest.approx(1) and results["AR_100"] == 1


def test_one_to_one():
    annotations, detections = _data(0)
    with pytest.raises(ValueError, match="11 detections, 12 annotations"):
        coco_average_precision(annotations, detections[1:])


def test_class_names_must_name_all_labels():
    annotations, detections = _data(0)
    with pytest.raises(ValueError, match="from 0 to 4. Received 2: .'a', 'b'.$"):
        coco_average_precision(annotations, detections, ["a", "b"])


def test_without_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-spm\[coco\]'"):
        coco_average_precision(*_data(0))
