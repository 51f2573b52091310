"""Folders in Pascal VOC's layout."""

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import VocDetection, VocSegmentation
from keras_spm.data.voc import VOC_CLASS_NAMES

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

SIZES = {"b": (30, 50), "a": (20, 20)}  # (height, width), in the order of the list.
OBJECTS = {
    "b": [
        {"name": "person", "box": (9, 3, 50, 30)},
        {"name": "aeroplane", "box": (1, 1, 1, 1), "difficult": "1"},
        {"name": "tvmonitor", "box": ("2.5", "4", "10.25", "7"), "difficult": None},
    ],
    "a": [],
}


def _document(height, width, objects):
    root = ElementTree.Element("annotation")
    size = ElementTree.SubElement(root, "size")
    for field, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, field).text = str(value)
    for each in objects:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = each["name"]
        if each.get("difficult", "0") is not None:
            ElementTree.SubElement(element, "difficult").text = each.get("difficult", "0")
        box = ElementTree.SubElement(element, "bndbox")
        # Read by name, not by order.
        for field, value in zip(("xmin", "ymin", "xmax", "ymax"), each["box"], strict=True):
            box.insert(0, ElementTree.Element(field))
            box[0].text = str(value)
        part = ElementTree.SubElement(element, "part")  # The head of a person is not an object.
        ElementTree.SubElement(part, "name").text = "head"
        ElementTree.SubElement(part, "bndbox")
    return ElementTree.tostring(root)


def _segmentation_maps():
    generator = np.random.default_rng(0)
    values = [0, 1, 15, 20, 255]
    return {name: generator.choice(values, size).astype("uint8") for name, size in SIZES.items()}


@pytest.fixture
def folder(tmp_path):
    for name in ("JPEGImages", "Annotations", "SegmentationClass"):
        (tmp_path / name).mkdir()
    for task in ("Main", "Segmentation"):
        (tmp_path / "ImageSets" / task).mkdir(parents=True)
        (tmp_path / "ImageSets" / task / "train.txt").write_text("b\na\n\n")
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("b -1\na  1\n")
    palette = np.random.default_rng(1).integers(0, 256, 768).tolist()
    for name, (height, width) in SIZES.items():
        Image.new("RGB", (width, height)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        document = _document(height, width, OBJECTS[name])
        (tmp_path / "Annotations" / f"{name}.xml").write_bytes(document)
        image = Image.fromarray(_segmentation_maps()[name]).convert("P")
        image.putdata(_segmentation_maps()[name].ravel().tolist())
        image.putpalette(palette)
        image.save(tmp_path / "SegmentationClass" / f"{name}.png")
    return tmp_path


def test_boxes_are_converted_from_inclusive_pixels(folder):
    examples = VocDetection(folder, "train")
    assert len(examples) == 2 and examples.invalid_annotations == {}
    example = examples[0]
    assert (example["image"], example["image_id"]) == (folder / "JPEGImages/b.jpg", "b")
    assert example["boxes"].tolist() == [[8, 2, 50, 30], [0, 0, 1, 1], [1.5, 3, 10.25, 7]]
    assert [examples.class_names[label] for label in example["labels"]] == [
        *("person", "aeroplane", "tvmonitor")
    ]
    assert len(examples.class_names) == 20
    assert example["crowd"].tolist() == [False, True, False]
    assert example["areas"].tolist() == [42 * 28, 1, 8.75 * 4]
    assert examples[1]["image_id"] == "a" and examples[1]["boxes"].shape == (0, 4)


def test_boxes_cover_the_pixels_of_the_object(folder):
    """VOC stores the first and last pixel of an object, counted from 1."""
    mask = np.zeros((30, 50), bool)
    mask[4:9, 7:31] = True
    rows, columns = np.nonzero(mask)
    box = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
    document = _document(30, 50, [{"name": "cat", "box": box}])
    (folder / "Annotations/b.xml").write_bytes(document)
    left, top, right, bottom = VocDetection(folder, "train")[0]["boxes"][0].astype(int)
    inside = np.zeros_like(mask)
    inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(inside, mask)


def test_custom_classes(folder):
    document = _document(20, 20, [{"name": "heron", "box": (1, 1, 9, 9)}])
    (folder / "Annotations/b.xml").write_bytes(_document(30, 50, []))
    (folder / "Annotations/a.xml").write_bytes(document)
    examples = VocDetection(folder, "train", ["boat", "heron"])
    assert examples.class_names == ["boat", "heron"] and examples[1]["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("unknown class", {"name": "heron"}),
        ("malformed bndbox", {"box": (1, 2, "x", 4)}),
        ("malformed bndbox", {"box": (1, 2, "", 4)}),
        ("number that is not finite", {"box": (1, 2, "nan", 4)}),
        ("box without area", {"box": (3, 2, 2, 4)}),
        ("box outside the image", {"box": (51, 2, 60, 4)}),
        ("malformed difficult", {"difficult": "yes"}),
    ],
)
def test_invalid_annotations_are_reported_or_dropped(folder, reason, changes):
    bad = {"name": "cat", "box": (1, 1, 9, 9), **changes}
    document = _document(30, 50, [*OBJECTS["b"], bad])
    (folder / "Annotations/b.xml").write_bytes(document)
    with pytest.raises(ValueError, match=rf"1 × {reason} \(b #4\)"):
        VocDetection(folder, "train", VOC_CLASS_NAMES)
    examples = VocDetection(folder, "train", VOC_CLASS_NAMES, invalid="drop")
    assert examples.invalid_annotations == {reason: ["b #4"]}
    assert len(examples[0]["boxes"]) == 3


def test_missing_images_and_other_sizes_are_errors(folder):
    examples = VocDetection(folder, "train")
    Image.new("RGB", (30, 50)).save(folder / "JPEGImages/b.jpg")
    with pytest.raises(ValueError, match="b.jpg has width 30 and height 50"):
        examples[0]
    (folder / "JPEGImages/b.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 × missing image file \(b\)"):
        VocDetection(folder, "train")
    left = VocDetection(folder, "train", invalid="drop")
    assert [example["image_id"] for example in left] == ["a"]


ENTITIES = (
    b'<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    b"<annotation><size><width>50</width><height>30</height></size><folder>&b;</folder>"
    b"</annotation>"
)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "no element found"),
        (b"<annotation><size>", "no element found"),
        (b"\x89PNG", "not well-formed"),
        (b'<?xml version="1.0" encoding="none"?><annotation/>', "encoding"),
        (b"<kml/>", "its root is 'kml'"),
        (_document(30, -50, []), r"must be positive ints. Received: \['30', '-50'\]"),
        (ENTITIES, "declares a document type"),
        (ENTITIES.decode().encode("utf-16"), "declares a document type"),
    ],
)
def test_malformed_annotations_are_errors(folder, document, message):
    (folder / "Annotations/b.xml").write_bytes(document)
    for invalid in ("raise", "drop"):
        with pytest.raises(ValueError, match=f"b.xml is not a VOC annotation: .*{message}"):
            VocDetection(folder, "train", invalid=invalid)


def test_image_lists(folder):
    with pytest.raises(ValueError, match="Did you mean 'train'"):
        VocDetection(folder, "training")
    with pytest.raises(ValueError, match="cat_train.txt must have one name per line"):
        VocDetection(folder, "cat_train")
    (folder / "ImageSets/Main/train.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="train.txt has duplicate names"):
        VocDetection(folder, "train")
    (folder / "ImageSets/Main/train.txt").write_text("none\n")
    with pytest.raises(FileNotFoundError, match="none.xml"):
        VocDetection(folder, "train")
    with pytest.raises(FileNotFoundError, match="no lists of images"):
        VocSegmentation(folder / "JPEGImages", "train")


@pytest.mark.parametrize("task", ["Main", "Segmentation"])
def test_names_outside_of_the_folder(folder, task):
    (folder / "ImageSets" / task / "train.txt").write_text("b\n../JPEGImages/a\n")
    for read in (VocDetection, VocSegmentation):
        if (read is VocDetection) == (task == "Main"):
            with pytest.raises(ValueError, match="train.txt must name images inside"):
                read(folder, "train")


def _write_maps(folder, **values):
    for name, choice in values.items():
        stored = np.resize(np.array(choice, "uint8"), SIZES[name])
        Image.fromarray(stored).save(folder / "SegmentationClass" / f"{name}.png")


def test_binary_masks_are_refused(folder):
    """255 is ignored, so the object would not be trained."""
    for values in ({"a": [0, 255], "b": [0, 255]}, {"a": [0], "b": [0, 255]}, {"a": 255, "b": 0}):
        _write_maps(folder, **values)
        with pytest.raises(ValueError, match=r"All 2 segmentation maps.*SegmentationClass/b.png"):
            VocSegmentation(folder, "train", ["background", "object"])
    # One file may have a background and a border only, and a split may have no object.
    for values in ({"a": [0, 255], "b": [0, 1]}, {"a": [0], "b": [0]}):
        _write_maps(folder, **values)
        assert VocSegmentation(folder, "train", ["background", "object"])[1] is not None


def test_class_names_are_checked(folder):
    for read in (VocDetection, VocSegmentation):
        with pytest.raises(ValueError, match="`class_names` must be distinct"):
            read(folder, "train", [])
    with pytest.raises(ValueError, match="at most 255 names, because maps are 8-bit"):
        VocSegmentation(folder, "train", list(map(str, range(256))))


def test_segmentation_maps_are_palette_indices(folder):
    examples = VocSegmentation(folder, "train")
    assert len(examples) == 2 and len(examples.class_names) == 21
    assert examples.class_names[15] == "person"
    for example, name in zip(examples, SIZES, strict=True):
        assert example["image"] == folder / "JPEGImages" / f"{name}.jpg"
        assert example["segmentation_map"].dtype == "uint8"
        np.testing.assert_array_equal(example["segmentation_map"], _segmentation_maps()[name])
    with pytest.raises(IndexError):
        examples[2]


def test_invalid_maps_are_errors(folder):
    examples = VocSegmentation(folder, "train")
    file = folder / "SegmentationClass/b.png"
    Image.fromarray(np.zeros((50, 30), "uint8")).save(file)
    with pytest.raises(ValueError, match=r"b.png must have the size .*\(30, 50\).*\(50, 30\)"):
        examples[0]
    with pytest.raises(ValueError, match=r"1 × segmentation map of another size .* \(b.jpg\)"):
        VocSegmentation(folder, "train")
    values = np.array([0, 20, 21, 254, 255], "uint8").repeat(300).reshape(30, 50)
    Image.fromarray(values).save(file)
    with pytest.raises(ValueError, match=r"values from 0 to 20, or 255 .* \[ 21 254\]"):
        examples[0]
    with pytest.raises(ValueError, match=r"from 0 to 1.* \[ 20  21 254\]"):
        VocSegmentation(folder, "train", ["field", "heron"])[0]
    Image.new("RGB", (50, 30), (1, 2, 3)).save(file)
    with pytest.raises(ValueError, match="b.png cannot be .*: it has colors .*: #010203"):
        examples[0]
    Image.new("LA", (50, 30)).save(file)
    with pytest.raises(ValueError, match="b.png cannot be .*: must be 8-bit .*, not LA"):
        examples[0]
    file.unlink()
    with pytest.raises(ValueError, match=r"1 × missing segmentation map \(b.jpg\)"):
        VocSegmentation(folder, "train")
    assert len(VocSegmentation(folder, "train", invalid="drop")) == 1
