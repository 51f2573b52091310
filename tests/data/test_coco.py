"""COCO files: comparison with pycocotools, and invalid annotations."""

import copy
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import CocoDetection
from tests.data import coco_files

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


def _written(folder, change=lambda contents: None):
    contents = copy.deepcopy(coco_files.contents())
    change(contents)
    return coco_files.write(folder, contents)


def _with(folder, *annotations):
    return _written(folder, lambda contents: contents["annotations"].extend(annotations))


def test_equals_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    files = _written(tmp_path)
    examples, theirs = CocoDetection(*files), COCO(files[0])
    assert examples.invalid_annotations == {}
    categories = theirs.loadCats(sorted(theirs.getCatIds()))
    assert examples.class_names == [category["name"] for category in categories]
    assert examples.category_ids == [category["id"] for category in categories] == [2, 4, 7]
    assert [example["image_id"] for example in examples] == theirs.getImgIds() == [11, 5, 9]
    for example in examples:
        assert example["image"] == tmp_path / theirs.imgs[example["image_id"]]["file_name"]
        annotations = theirs.loadAnns(theirs.getAnnIds(imgIds=[example["image_id"]]))
        boxes = np.array([each["bbox"] for each in annotations], "float64").reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(example["boxes"], boxes)
        ids = [examples.category_ids[label] for label in example["labels"]]
        assert ids == [each["category_id"] for each in annotations]
        assert example["crowd"].tolist() == [bool(each["iscrowd"]) for each in annotations]
        assert example["areas"].tolist() == [each["area"] for each in annotations]


def test_shapes_and_dtypes_with_and_without_objects(tmp_path):
    for example in CocoDetection(*_written(tmp_path)):
        count = len(example["labels"])
        assert count == {11: 2, 5: 2, 9: 0}[example["image_id"]]
        assert example["boxes"].shape == (count, 4) and example["boxes"].dtype == "float64"
        assert example["labels"].dtype == "int64" and example["areas"].dtype == "float64"
        assert example["crowd"].shape == (count,) and example["crowd"].dtype == "bool"


def test_a_file_without_objects(tmp_path):
    examples = CocoDetection(*_written(tmp_path, lambda contents: contents["annotations"].clear()))
    assert [example["boxes"].shape for example in examples] == [(0, 4)] * 3


def test_random_access_copies_and_pickling(tmp_path):
    examples = CocoDetection(*_written(tmp_path))
    examples[0]["boxes"][:] = 0  # Examples are copies.
    assert examples[0]["boxes"][1].tolist() == [12.34, 5.67, 12.34 + 8.9, 5.67 + 10.11]
    copied = pickle.loads(pickle.dumps(examples))
    for name, values in examples[1].items():
        np.testing.assert_array_equal(copied[1][name], values)
    with pytest.raises(IndexError):
        examples[3]


def test_optional_fields(tmp_path):
    bare = {"id": "a", "image_id": 9, "category_id": 4, "bbox": [1, 2, 3, 4]}
    polygons = coco_files.annotation(1, 9, (1, 2, 3, 4), segmentation=[])
    nothing = coco_files.annotation(2, 9, (1, 2, 3, 4), segmentation=None)
    example = CocoDetection(*_with(tmp_path, bare, polygons, nothing))[2]
    assert example["boxes"].tolist() == [[1, 2, 4, 6]] * 3
    assert example["crowd"].tolist() == [False] * 3
    assert example["areas"].tolist() == [12, 0.7 * 3 * 4, 0.7 * 3 * 4]
    assert example["labels"].tolist() == [1, 0, 0]


def test_boxes_are_clipped_to_the_image(tmp_path):
    boxes = [(-5, 3, 10, 4), (28, -1, 9, 50), (-9, -9, 99, 99)]
    added = [coco_files.annotation(index, 9, box, area=7) for index, box in enumerate(boxes)]
    example = CocoDetection(*_with(tmp_path, *added))[2]
    assert example["boxes"].tolist() == [[0, 3, 5, 7], [28, 0, 32, 32], [0, 0, 32, 32]]
    assert example["areas"].tolist() == [7, 7, 7]


BOX = (1, 2, 3, 4)
HUGE = 10**400  # JSON ints may be too large for a float.
INVALID = {
    "unknown image": [{"image_id": 10}, {"image_id": None}, {"image_id": [5]}],
    "unknown category": [
        *({"category_id": 3}, {"category_id": "boat"}, {"category_id": {}}),
        *({"category_id": True}, {"category_id": 2.0}),
    ],
    "malformed bbox": [{"bbox": None}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, "4"]}],
    "number that is not finite": [
        *({"bbox": [1, float("nan"), 3, 4]}, {"bbox": [1, 2, float("inf"), 4]}),
        *({"bbox": [1, 2, HUGE, 4]}, {"area": float("nan")}, {"area": HUGE}),
        *({"bbox": [1.7e308, 2, 1.7e308, 4]}, {"segmentation": [[1, 2, 3, float("inf"), 5, 6]]}),
    ],
    "box without area": [{"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, -4]}],
    "box outside the image": [{"bbox": [32, 2, 3, 4]}, {"bbox": [1, -9, 3, 9]}],
    "malformed iscrowd": [{"iscrowd": 2}, {"iscrowd": None}, {"iscrowd": [0]}],
    "malformed area": [{"area": None}, {"area": "7"}, {"area": True}],
    "area that is not positive": [{"area": 0}, {"area": -3.5}],
    "malformed segmentation": [
        *({"segmentation": "polygon"}, {"segmentation": [1, 2, 3, 4, 5, 6]}),
        *({"segmentation": [[1, 2, 3, 4, 5, None]]}, {"segmentation": [[[1, 2], [3, 4], [5, 6]]]}),
        {"segmentation": {"size": [32, 32], "counts": [-1, 1025]}},
        {"segmentation": {"size": [32, 32]}},
    ],
    "mask of another size than its image": [
        {"segmentation": {"size": [32, 33], "counts": [1056]}},
        {"segmentation": {"size": [32, 33], "counts": "abc"}},
        {"segmentation": {"size": [32, 32], "counts": [24, 999]}},
        {"segmentation": {"counts": [1024]}},
    ],
    "polygon with fewer than three points": [{"segmentation": [[1, 2, 3, 4]]}],
    "polygon with an odd number of coordinates": [{"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}],
}


@pytest.mark.parametrize("reason", INVALID)
def test_invalid_annotations_are_reported_or_dropped(tmp_path, reason):
    bad = [
        {**coco_files.annotation(f"bad{index}", 9, BOX), **changes}
        for index, changes in enumerate(INVALID[reason])
    ]
    good = coco_files.annotation("good", 9, BOX)
    files = _with(tmp_path, *bad, good)
    with pytest.raises(ValueError, match=rf"{len(bad)} × {reason} \(bad0.*invalid=\"drop\""):
        CocoDetection(*files)
    examples = CocoDetection(*files, invalid="drop")
    assert examples.invalid_annotations == {reason: [each["id"] for each in bad]}
    assert [len(example["boxes"]) for example in examples] == [2, 2, 1]


def test_all_reasons_are_in_one_error(tmp_path):
    again = [coco_files.annotation(100, 9, BOX)] * 7
    files = _with(tmp_path, *again, coco_files.annotation(1, 9, BOX, area=0))
    (tmp_path / "000005.png").unlink()
    with pytest.raises(ValueError) as raised:
        CocoDetection(*files)
    assert "7 × duplicate id (100, 100, 100, 100, 100, …)" in str(raised.value)
    assert "1 × area that is not positive (1)" in str(raised.value)
    assert "1 × missing image file (5)" in str(raised.value)
    examples = CocoDetection(*files, invalid="drop")
    assert [example["image_id"] for example in examples] == [11, 9]
    assert [len(example["boxes"]) for example in examples] == [2, 0]
    assert set(examples.invalid_annotations) == {
        *("duplicate id", "area that is not positive", "missing image file")
    }


def test_invalid_is_raise_or_drop(tmp_path):
    with pytest.raises(ValueError, match="`invalid` must be .* Received: invalid='ignore'"):
        CocoDetection(*_written(tmp_path), invalid="ignore")


def test_a_folder_without_images(tmp_path):
    annotations, _ = _written(tmp_path)
    with pytest.raises(ValueError, match=r"3 × missing image file \(11, 5, 9\)"):
        CocoDetection(annotations, tmp_path / "elsewhere")


def test_size_of_the_image_is_checked_when_read(tmp_path):
    examples = CocoDetection(*_written(tmp_path))
    Image.new("RGB", (40, 60)).save(tmp_path / "000011.png")
    with pytest.raises(ValueError, match="000011.png has width 40 and height 60 .* lists width 60"):
        examples[0]
    (tmp_path / "000005.png").write_text("no picture")
    with pytest.raises(ValueError, match="000005.png cannot be read"):
        examples[1]
    assert len(examples[2]["boxes"]) == 0


def test_sizes_are_after_exif_orientation(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # Rotated by 90 degrees.
    files = coco_files.write(tmp_path, coco_files.contents(), {"exif": turned})
    with pytest.raises(ValueError, match="width 40 and height 60 after Exif orientation"):
        CocoDetection(*files)[0]
    contents = coco_files.contents()
    contents["images"][0].update(height=60, width=40)
    contents["annotations"] = []
    assert (
        len(CocoDetection(*coco_files.write(tmp_path, contents, {"exif": turned}))[0]["boxes"]) == 0
    )


def _without(name):
    return lambda contents: contents.pop(name)


def _changed(name, field, value):
    return lambda contents: contents[name][1].update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("images"), "`images` must be a list. Received: None"),
        (_without("annotations"), "`annotations` must be a list"),
        (_without("categories"), "`categories` must be a list"),
        (lambda contents: contents["images"].insert(1, "x"), r"`images\[1\]` must be an object"),
        (_changed("images", "id", 1.5), r"`images\[1\].id` must be int or str. Received: 1.5"),
        (_changed("images", "id", 11), "`id` in `images` must be unique. Received: 11"),
        (_changed("images", "file_name", None), r"`images\[1\].file_name` must be str"),
        (_changed("images", "width", "30"), r"`images\[1\].width` must be int. Received: '30'"),
        (_changed("images", "height", 0), r"`images\[1\].height` must be positive. Received: 0"),
        (_changed("categories", "id", "2"), r"`categories\[1\].id` must be int"),
        (_changed("categories", "name", "heron"), "`name` in `categories` must be unique"),
        (_changed("categories", "id", 7), "`id` in `categories` must be unique. Received: 7"),
        (_changed("categories", "name", ["x" * 99]), r"`categories\[1\].name` must be str.*…"),
        (_changed("annotations", "id", None), r"`annotations\[1\].id` must be int or str"),
    ],
)
def test_malformed_files_are_errors(tmp_path, change, message):
    files = _written(tmp_path, change)
    for invalid in ("raise", "drop"):
        with pytest.raises(ValueError, match=rf"annotations.json is not a COCO file: {message}"):
            CocoDetection(*files, invalid=invalid)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/secret.png", "", "."])
def test_images_outside_of_the_folder(tmp_path, name):
    if name.startswith("/"):
        name = str(tmp_path / "secret.png")
    files = _written(tmp_path / "images", _changed("images", "file_name", name))
    for invalid in ("raise", "drop"):
        with pytest.raises(ValueError, match="must name images inside .*`allow_outside=True`"):
            CocoDetection(*files, invalid=invalid)


def test_images_outside_of_the_folder_can_be_allowed(tmp_path):
    Image.new("RGB", (30, 50)).save(tmp_path / "beside.png")
    for name in ("../beside.png", str(tmp_path / "beside.png")):
        files = _written(tmp_path / "images", _changed("images", "file_name", name))
        example = CocoDetection(*files, allow_outside=True)[1]
        assert example["image"].resolve() == tmp_path / "beside.png"
    inside = str(tmp_path / "images/000005.png")  # An absolute path may be inside.
    files = _written(tmp_path / "images", _changed("images", "file_name", inside))
    assert len(CocoDetection(*files)) == 3


def test_boxes_that_are_fractions(tmp_path):
    def change(contents):
        for each in contents["annotations"]:
            each["bbox"] = [0.25, 0.5, 0.75, 0.5]

    with pytest.raises(ValueError, match="must have boxes in pixels.* Multiply fractions"):
        CocoDetection(*_written(tmp_path, change))


@pytest.mark.parametrize("text", ["", "{", "[1", "\xff", "[" * 200_000, "1" * 5000])
def test_invalid_json_is_an_error(tmp_path, text):
    (tmp_path / "file.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="file.json is not a COCO file: invalid JSON"):
        CocoDetection(tmp_path / "file.json", tmp_path)


def test_other_json_is_an_error(tmp_path):
    (tmp_path / "file.json").write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match="its contents must be an object"):
        CocoDetection(tmp_path / "file.json", tmp_path)
    with pytest.raises(FileNotFoundError):
        CocoDetection(tmp_path / "none.json", tmp_path)
