"""Masks of objects: comparison with pycocotools' own reading, and invalid annotations."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from keras_spm.data import CocoDetection, DetectionBatching, ImageBatching, read_instances

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

HEIGHT, WIDTH = 37, 53
# A concave polygon between pixels, one that leaves the image, and one without a pixel center.
CONCAVE = [3.3, 4.1, 40.7, 6.2, 20.5, 15.5, 44.9, 30.3, 5.1, 33.8]
OUTSIDE = [30.0, 20.0, 60.5, 20.0, 60.5, 45.0]
TINY = [10.1, 10.1, 10.2, 10.1, 10.2, 10.2]


def _random_mask(seed=0):
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH))
    return np.asfortranarray(noise > 0.6, "uint8")


def _runs(mask):
    """The lengths of runs of 0 and 1, column by column."""
    values = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff([0, *changes, len(values)]).tolist()
    return lengths if values[0] == 0 else [0, *lengths]


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def _coco(folder, segmentations, **fields):
    _image(folder / "images/a.png")
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 30, 20],
            "area": 500,
            "iscrowd": int(isinstance(segmentation, dict)),
            "segmentation": segmentation,
            **fields,
        }
        for number, segmentation in enumerate(segmentations, start=1)
    ]
    contents = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": annotations,
    }
    path = folder / "instances_train.json"
    path.write_text(json.dumps(contents))
    return path


def _compressed(mask):
    return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(mask)["counts"].decode()}


def test_coco_equals_pycocotools(tmp_path):
    masks = [_random_mask(seed) for seed in range(3)] + [np.ones((HEIGHT, WIDTH), "uint8", "F")]
    segmentations = [
        [CONCAVE],
        [CONCAVE, OUTSIDE],
        [TINY],
        {"size": [HEIGHT, WIDTH], "counts": _runs(masks[0])},
        *map(_compressed, masks),
    ]
    path = _coco(tmp_path, segmentations)
    (example,) = CocoDetection(path, masks=True)
    theirs = COCO(path)
    expected = [theirs.annToMask(each) for each in theirs.loadAnns(theirs.getAnnIds())]
    assert example["masks"].dtype == bool
    np.testing.assert_array_equal(example["masks"], expected)
    np.testing.assert_array_equal(example["masks"][4:], masks)
    assert not example["masks"][2].any()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "object without a mask"),
        ([], "object without a mask"),
        ([[0, 0, 1e9, 0, 1e9, 5]], "polygon far outside of the image"),
        ({"size": [HEIGHT, WIDTH], "counts": "0"}, "mask of another size than its image"),
        ({"size": [HEIGHT, WIDTH], "counts": "04" * 500}, "mask of another size than its image"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "malformed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, "malformed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 9}, "malformed run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": "1O"}, "malformed run lengths"),
    ],
)
def test_invalid_masks(tmp_path, segmentation, reason):
    path = _coco(tmp_path, [segmentation, [CONCAVE]])
    with pytest.raises(ValueError, match=f"1 × {reason} \\(1\\)"):
        CocoDetection(path, masks=True)
    examples = CocoDetection(path, invalid="drop", masks=True)
    assert examples.invalid_annotations == {reason: [1]}
    assert len(examples[0]["masks"]) == len(examples[0]["labels"]) == 1
    assert "masks" not in CocoDetection(path, invalid="drop")[0]


def _polygons(points):
    polygons = coco_mask.frPyObjects([points], HEIGHT, WIDTH)
    return coco_mask.decode(polygons)[..., 0].astype(bool)


def _yolo(folder):
    _image(folder / "images/train/a.png")
    relative = np.reshape(CONCAVE, (-1, 2)) / (WIDTH, HEIGHT)
    lines = [" ".join(map(str, [0, *relative.ravel().tolist()])), "1 0.5 0.5 0.2 0.2"]
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: images/train\n")


def _labelme(folder):
    for name in ("train/a", "val/b"):
        _image(folder / f"{name}.png")
        points = np.reshape(CONCAVE, (-1, 2)).tolist()
        shapes = [
            {"label": "cat", "shape_type": "polygon", "points": points},
            {"label": "dog", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]},
        ]
        contents = {"shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / f"{name}.json").write_text(json.dumps(contents))


@pytest.mark.parametrize("write", [_yolo, _labelme])
def test_polygons_and_boxes(tmp_path, write):
    write(tmp_path)
    with pytest.raises(ValueError, match="1 × object without a mask"):
        read_instances(tmp_path)
    data = read_instances(tmp_path, invalid="drop")
    assert data.class_names == ["cat", "dog"]
    (example,) = data.train
    assert example["labels"].tolist() == [0]
    # YOLO's coordinates are multiplied again.
    differing = (example["masks"][0] != _polygons(CONCAVE)).sum()
    assert differing <= (1 if write is _yolo else 0)


def _voc(folder):
    """Two objects, with VOC's border between them; the first touches the image's border."""
    objects = np.zeros((HEIGHT, WIDTH), "uint8")
    objects[:10, :20], objects[12:30, 5:40] = 1, 2
    objects[10:12] = 255
    classes = np.choose(np.where(objects == 255, 3, objects), [0, 3, 2, 255]).astype("uint8")
    classes[0, 0] = 255  # An object's pixels need not all have its class.
    for name in ("train", "val"):
        for kind, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
            path = folder / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(values, "P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(path)
        _image(folder / f"JPEGImages/{name}.png")
        lists = folder / "ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{name}.txt").write_text(name)
    return objects


def test_voc_objects(tmp_path):
    objects = _voc(tmp_path)
    data = read_instances(tmp_path, class_names=["cat", "dog", "bird"])
    assert data.sizes() == {"train": 1, "validation": 1}
    example = data.validation[0]
    np.testing.assert_array_equal(example["masks"], [objects == 1, objects == 2])
    assert example["labels"].tolist() == [2, 1]
    assert example["boxes"].tolist() == [[0, 0, 20, 10], [5, 12, 40, 30]]
    assert example["areas"].tolist() == [200, 630]
    with pytest.raises(ValueError, match=r"1 × unknown class \(train #1\)"):
        read_instances(tmp_path, class_names=["cat", "dog"])
    (tmp_path / "SegmentationClass/train.png").unlink()
    reason = "no maps of objects and classes in the size of the image"
    with pytest.raises(ValueError, match=rf"1 × {reason} \(train\)"):
        read_instances(tmp_path, class_names=["cat", "dog", "bird"])


def test_a_batch_of_masks(tmp_path):
    examples = CocoDetection(_coco(tmp_path, [[CONCAVE], [OUTSIDE]]), masks=True)
    batching = DetectionBatching(ImageBatching(size_divisor=64), max_objects=3)
    images, targets = batching([examples[0]])
    assert targets["masks"].shape == (1, 3, *images.shape[1:3]) == (1, 3, 64, 64)
    np.testing.assert_array_equal(targets["masks"][0, :2, :HEIGHT, :WIDTH], examples[0]["masks"])
    assert targets["masks"].sum() == examples[0]["masks"].sum()
