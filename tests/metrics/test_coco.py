"""COCO average precision against pycocotools on equivalent JSON files."""

import json
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_spm.metrics import coco_average_precision, coco_mask_average_precision

CLASSES = 6
NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def _boxes(generator, count, largest):
    start = generator.uniform(0, 400, (count, 2))
    return np.concatenate([start, start + generator.uniform(2, largest, (count, 2))], axis=1)


def _image(generator, objects, found, largest, dtype):
    """Objects of classes 0 to 4, and detections of classes 0, 1, 2, 3 and 5, some correct."""
    boxes = _boxes(generator, objects, largest)
    sides = boxes[:, 2:] - boxes[:, :2]
    annotations = {
        "boxes": boxes.astype(dtype),
        "labels": generator.integers(0, 5, objects),
        "crowd": generator.random(objects) < 0.2,
        "areas": (sides.prod(axis=1) * generator.uniform(0.4, 1, objects)).astype(dtype),
    }
    detected = _boxes(generator, found, largest)
    labels = generator.choice([0, 1, 2, 3, 5], found)
    if objects:
        # Half of them are near an object, a tenth of those exactly at it.
        near = np.flatnonzero(generator.random(found) < 0.5)
        which = generator.integers(0, objects, len(near))
        detected[near] = boxes[which] + generator.normal(0, 0.06 * largest**0.5, (len(near), 4))
        true_labels = annotations["labels"][which]
        labels[near] = np.where(true_labels == 4, 5, true_labels)
        detected[near[::10]] = boxes[which[::10]]
    # One digit, so that many scores are equal.
    scores = generator.random(found).round(1)
    return annotations, _detections(detected.astype(dtype), scores.astype(dtype), labels)


def _detections(boxes, scores, labels):
    return {"boxes": boxes, "scores": scores, "labels": labels}


def _data(seed, dtype="float32", images=12, most_objects=10, most_found=60, largest=250):
    generator = np.random.default_rng(seed)
    pairs = [
        _image(
            generator,
            # Every fourth image has no objects, every third one no detections.
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
    """Returns its `stats`, from files with other image and class ids than ours."""
    truth = [
        {
            "image_id": 100 + number,
            "category_id": 1 + int(label),
            "bbox": _left_top_width_height(box),
            "iscrowd": int(crowd),
            "area": float(area),
        }
        for number, image in enumerate(annotations)
        for box, label, crowd, area in zip(*image.values(), strict=True)
    ]
    found = [
        {
            "image_id": 100 + number,
            "category_id": 1 + int(label),
            "bbox": _left_top_width_height(box),
            "score": float(score),
        }
        for number, image in enumerate(detections)
        for box, score, label in zip(*image.values(), strict=True)
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
def test_equals_pycocotools(tmp_path, capsys, kind, seed):
    annotations, detections = _data(seed, **KINDS[kind])
    results = coco_average_precision(annotations, detections)
    assert capsys.readouterr().out == ""
    assert all(type(value) is float for value in results.values())
    expected = _pycocotools(tmp_path, annotations, detections)
    assert results == dict(zip(NAMES, expected, strict=True))
    assert results["AP50"] > 0


def test_data_contain_all_cases():
    annotations, detections = _data(0)
    assert {len(image["labels"]) > 0 for image in annotations} == {False, True}
    assert {len(image["labels"]) > 0 for image in detections} == {False, True}
    areas = np.concatenate([image["areas"] for image in annotations])
    assert set(np.digitize(areas, [32**2, 96**2])) == {0, 1, 2}
    assert {True, False} == {bool(each) for image in annotations for each in image["crowd"]}
    _, detections = _data(0, **KINDS["many"])
    assert (
        max(np.bincount(each["labels"]).max() for each in detections if len(each["labels"])) > 100
    )


def test_each_class(tmp_path):
    annotations, detections = _data(0)
    names = [f"class {label}" for label in range(CLASSES)]
    results = coco_average_precision(annotations, detections, names)
    expected = [
        _pycocotools(tmp_path, annotations, detections, [label])[0] for label in range(CLASSES)
    ]
    assert [results[f"AP/{name}"] for name in names] == expected
    # Class 4 is never detected, class 5 has no objects.
    assert expected[4:] == [0, -1]
    precisions = [each for each in expected if each > -1]
    assert results["AP"] == pytest.approx(np.mean(precisions), abs=1e-12)
    del results["AP/class 5"]
    assert coco_average_precision(annotations, detections, names[:5]) == results


def _no_detections(images):
    return [_detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in range(images)]


def test_no_detections():
    """All objects are missed; pycocotools's `loadRes` refuses an empty file."""
    annotations, _ = _data(0)
    assert set(coco_average_precision(annotations, _no_detections(12)).values()) == {0}
    annotations, _ = _data(0, largest=30)
    results = coco_average_precision(annotations, _no_detections(12))
    assert {name for name, value in results.items() if value == -1} == {
        *("AP_medium", "AP_large", "AR_medium", "AR_large")
    }


def test_no_objects():
    _, detections = _data(0)
    empty = {"boxes": np.zeros((0, 4)), "labels": [], "crowd": [], "areas": []}
    for found in (detections, _no_detections(12)):
        assert set(coco_average_precision([empty] * 12, found, ["a"]).values()) == {-1}
    crowd = {"boxes": [[0, 0, 9, 9]], "labels": [0], "crowd": [True], "areas": [81]}
    assert set(coco_average_precision([crowd] * 12, detections).values()) == {-1}
    assert set(coco_average_precision([], []).values()) == {-1}


def test_perfect_detections():
    annotations, _ = _data(0)
    detections = [
        {
            "boxes": image["boxes"][~image["crowd"]],
            "scores": np.ones(sum(~image["crowd"])),
            "labels": image["labels"][~image["crowd"]],
        }
        for image in annotations
    ]
    results = coco_average_precision(annotations, detections)
    assert results["AP"] == pytest.approx(1) and results["AR_100"] == 1


def test_lengths_must_be_equal():
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


# Masks


def _ellipses(boxes, size=(120, 160)):
    """A mask (height, width) in each box, with a notch."""
    rows, columns = np.indices(size)
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        x, y = (
            (2 * columns - left - right) / (right - left),
            (2 * rows - top - bottom) / (bottom - top),
        )
        mask[:] = (x**2 + y**2 <= 1) & ~((x > 0) & (y > 0.2))
    return masks


def _mask_data(seed):
    """Objects with masks, some of them crowds, and detections with shifted masks."""
    generator, annotations, detections = np.random.default_rng(seed), [], []
    for number in range(5):
        count = 0 if number == 3 else int(generator.integers(1, 6))
        start = generator.uniform(0, 70, (count, 2))
        boxes = np.concatenate([start, start + generator.uniform(4, 80, (count, 2))], axis=1)
        masks, labels = _ellipses(boxes), generator.integers(0, 3, count)
        crowd = generator.random(count) < 0.2
        areas = masks.sum(axis=(1, 2)) + 0.5
        annotations.append(
            {"boxes": boxes, "labels": labels, "crowd": crowd, "areas": areas, "masks": masks}
        )
        found = np.concatenate([boxes + generator.normal(0, 3, boxes.shape), boxes[:2] + 1.5])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        scores = generator.random(len(found)).round(1)
        labels = np.concatenate([labels, labels[:2]])
        detections.append(
            {"boxes": found, "labels": labels, "scores": scores, "masks": _ellipses(found)}
        )
    return annotations, detections


def _encoded(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, "uint8"))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode()}


def _pycocotools_masks(folder, annotations, detections):
    """Returns its `stats` of masks, from JSON files."""
    truth = [
        {
            "image_id": 100 + number,
            "category_id": 1 + int(image["labels"][index]),
            "bbox": _left_top_width_height(image["boxes"][index]),
            "iscrowd": int(image["crowd"][index]),
            "area": float(image["areas"][index]),
            "segmentation": _encoded(image["masks"][index]),
        }
        for number, image in enumerate(annotations)
        for index in range(len(image["labels"]))
    ]
    found = [
        {
            "image_id": 100 + number,
            "category_id": 1 + int(image["labels"][index]),
            "score": float(image["scores"][index]),
            "segmentation": _encoded(image["masks"][index]),
        }
        for number, image in enumerate(detections)
        for index in range(len(image["labels"]))
    ]
    data = {
        "images": [
            {"id": 100 + number, "height": 120, "width": 160} for number in range(len(annotations))
        ],
        "categories": [{"id": 1 + label} for label in range(3)],
        "annotations": [{"id": 1 + number, **each} for number, each in enumerate(truth)],
    }
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "found.json").write_text(json.dumps(found))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_masks_equal_pycocotools(tmp_path, seed):
    annotations, detections = _mask_data(seed)
    results = coco_mask_average_precision(annotations, detections, ["a", "b", "c"])
    expected = _pycocotools_masks(tmp_path, annotations, detections)
    names = [f"mask_{name}" for name in NAMES]
    assert [results[name] for name in names] == expected
    assert 0.2 < results["mask_AP"] < 0.9
    assert list(results)[len(names) :] == ["mask_AP/a", "mask_AP/b", "mask_AP/c"]
    assert results["mask_AP"] != coco_average_precision(annotations, detections)["AP"]
