"""Recognized data formats: folders as people have them."""

import json

import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm.data import read_classification, read_detection, read_segmentation
from keras_spm.data.report import describe_data, report_text, summary
from keras_spm.trainer import load_recipe
from tests.data import layouts

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


def _found(data):
    """Returns {name of an image: [(class, left, top, right, bottom)]}, sorted."""
    found = {}
    for examples in data.splits.values():
        for example in examples:
            boxes = np.round(example["boxes"], 6).tolist()
            names = (data.class_names[label] for label in example["labels"])
            objects = [(name, *box) for name, box in zip(names, boxes, strict=True)]
            sides = example["boxes"][:, 2:] - example["boxes"][:, :2]
            np.testing.assert_allclose(example["areas"], sides.prod(axis=1))
            found[example["image"].stem] = sorted(objects)
    return found


@pytest.mark.parametrize("layout", layouts.DETECTION)
def test_layouts_of_detection(layout, tmp_path):
    # Archives often unpack into a folder of their own.
    inside = tmp_path / "download/birds"
    inside.mkdir(parents=True)
    layouts.DETECTION[layout](inside)
    data = read_detection(tmp_path)
    assert data.class_names == layouts.NAMES and not data.invalid_annotations
    assert _found(data) == {name: sorted(each) for name, each in layouts.OBJECTS.items()}
    if not data.is_held_out:
        splits = ({each["image"].stem for each in split} for split in data.splits.values())
        assert list(splits) == [set(layouts.TRAIN), set(layouts.VALIDATION)]
    images = " + ".join(map(str, data.sizes().values()))
    assert summary(describe_data(data)) == f"{data.source}: {images} images, 2 classes, 4 boxes"


def test_files_outside_of_the_folder(tmp_path):
    inside = tmp_path / "inside"
    layouts.write_coco(inside / "train.json", "ab", prefix="../")
    for name in "ab":
        layouts.image(tmp_path / name)
    with pytest.raises(ValueError, match="must name images inside .*`allow_outside=True`"):
        read_detection(inside, validation_share=0.5)
    overrides = ["dataset=coco", f"data_folder={inside}", "allow_outside=true"]
    examples, _ = load_recipe("detection", overrides).test_examples()
    assert examples[0]["image"].resolve().parent == tmp_path


def test_images_of_a_split_are_in_its_folder(tmp_path):
    layouts.coco_with_the_same_names_in_both_splits(tmp_path)
    data = read_detection(tmp_path)
    assert data.train[0]["image"] == tmp_path / "images/train/a.jpg"
    with pytest.raises(ValueError, match="val/a.jpg has width 9 and height 9 .* lists width 40"):
        data.validation[0]


@pytest.mark.parametrize("layout", layouts.SEGMENTATION)
def test_layouts_of_segmentation(layout, tmp_path):
    layouts.SEGMENTATION[layout](tmp_path)
    if layout == "masks_in_color":
        with pytest.raises(ValueError, match="colors without a class"):
            (tmp_path / "classes.txt").rename(tmp_path / "other.txt")
            read_segmentation(tmp_path)
        (tmp_path / "other.txt").rename(tmp_path / "classes.txt")
    data = read_segmentation(tmp_path)
    expected = np.minimum(layouts.MAP, 2) if layout == "masks_in_color" else layouts.MAP
    for examples in data.splits.values():
        for example in examples:
            np.testing.assert_array_equal(example["segmentation_map"], expected)
    assert sum(data.sizes().values()) == 4 and not data.invalid_annotations
    if layout == "cityscapes":
        assert len(data.class_names) == 19
    elif (tmp_path / "classes.txt").exists():
        assert data.class_names == ["sky", "road", "tree"]
    else:
        assert data.class_names == ["0", "1", "2"]
    report = describe_data(data)
    counts = np.bincount(expected.ravel(), minlength=256)[:3]
    for split in report["splits"].values():
        assert list(split["classes"].values())[:3] == (counts * split["images"]).tolist()
        assert split["sizes"]["smallest"] == split["sizes"]["largest"] == [24, 40]


def test_layouts_of_classification(tmp_path):
    for split, names in (("training", "abcd"), ("valid", "ef"), ("testing", "g")):
        for bird in layouts.NAMES:
            for name in names:
                layouts.image(tmp_path / split / bird / "2023" / name)
    (tmp_path / "notes.txt").write_text("")
    data = read_classification(tmp_path)
    assert data.sizes() == {"train": 8, "validation": 4, "test": 2}
    assert data.source == "a folder per class, with splits" and data.class_names == layouts.NAMES
    assert describe_data(data)["splits"]["test"]["classes"] == {"heron": 1, "stork": 1}
    held_out = read_classification(tmp_path / "training", validation_share=0.25)
    assert held_out.is_held_out and held_out.validation.labels.tolist() == [0, 1]
    report = describe_data(held_out)
    assert sorted(report["held_out"]) == sorted(str(each["image"]) for each in held_out.validation)
    json.dumps(report)


def test_tables(tmp_path):
    for name in "abcd":
        layouts.image(tmp_path / "photos" / name)
    (tmp_path / "birds.csv").write_text(
        "filename,class,subset\na.jpg,heron,train\nb.jpg,stork,train\nc.jpg,heron,val\nd.jpg,stork,val\n"
    )
    data = read_classification(tmp_path)
    assert data.source == "CSV file" and data.sizes() == {"train": 2, "validation": 2}
    assert data.train[1]["image"] == tmp_path / "photos/b.jpg"
    for split, rows in (("train", "a.jpg,heron\nb.jpg,stork"), ("val", "c.jpg,stork")):
        (tmp_path / f"{split}.csv").write_text(f"image,label\n{rows}\n")
    (tmp_path / "birds.csv").unlink()
    data = read_classification(tmp_path)
    assert data.sizes() == {"train": 2, "validation": 1} and data.validation[0]["label"] == 1


UNKNOWN = {
    "detection": ("images/train/a.jpg", "The closest format is 'yolo'"),
    "classification": ("images/train2017/a.jpg", "images/\n    train2017/"),
    "segmentation": ("photos/a.jpg", "photos/\n    a.jpg"),
}


@pytest.mark.parametrize("task", UNKNOWN)
def test_unknown_layouts_are_described(task, tmp_path):
    name, message = UNKNOWN[task]
    layouts.image(tmp_path / name, "")
    read = getattr(keras_spm.data, f"read_{task}")
    with pytest.raises(ValueError, match=f"has no known format of {task} data: ") as raised:
        read(tmp_path)
    assert message in str(raised.value)
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Unknown data format 'cooc'.*auto"):
        read(tmp_path, "cooc")


def test_several_formats_are_not_guessed(tmp_path):
    layouts.coco_with_one_folder_of_images(tmp_path)
    layouts.voc_without_lists(tmp_path)
    for path in tmp_path.glob("images/*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="several formats: coco, voc. Choose one"):
        read_detection(tmp_path)
    assert len(read_detection(tmp_path, "voc").class_names) == 2


def test_binary_masks(tmp_path):
    for name in "abcde":
        layouts.image(tmp_path / "images" / name)
        layouts.write_map(tmp_path / "masks" / f"{name}.png", np.uint8(255) * (layouts.MAP == 1))
    with pytest.raises(ValueError, match=r"no values but 0 and 255.*`label_map=\{255: 1\}`"):
        read_segmentation(tmp_path)
    data = read_segmentation(tmp_path, label_map={255: 1})
    assert data.class_names == ["0", "1"]
    np.testing.assert_array_equal(data.train[0]["segmentation_map"], layouts.MAP == 1)
    with pytest.raises(ValueError, match="`label_map` must be .* from 0 to 255"):
        read_segmentation(tmp_path, label_map={256: 1})


def test_other_values_of_ignored_pixels(tmp_path):
    layouts.masks_without_splits(tmp_path)
    data = read_segmentation(tmp_path, label_map={2: 255}, class_names=["sky", "road"])
    expected = np.where(layouts.MAP == 2, 255, layouts.MAP)
    np.testing.assert_array_equal(data.train[0]["segmentation_map"], expected)


def test_classes_in_another_order(tmp_path):
    layouts.masks_with_splits_above(tmp_path)
    data = read_segmentation(tmp_path, class_names=["tree", "sky", "road"])
    expected = np.where(layouts.MAP == 2, 0, np.where(layouts.MAP < 2, layouts.MAP + 1, 255))
    np.testing.assert_array_equal(data.train[0]["segmentation_map"], expected)
    renamed = read_segmentation(tmp_path, class_names=["a", "b", "c"])
    np.testing.assert_array_equal(renamed.train[0]["segmentation_map"], layouts.MAP)
    with pytest.raises(ValueError, match="must be those of the folder in any order"):
        read_segmentation(tmp_path, class_names=["tree", "sky", "street"])


def test_maps_with_loss(tmp_path):
    layouts.masks_without_splits(tmp_path)
    (tmp_path / "SegmentationClass/a.png").unlink()
    Image.fromarray(layouts.MAP).save(tmp_path / "SegmentationClass/a.jpg")
    with pytest.raises(ValueError, match="JPEG changes the class numbers. Received: 1 JPEG"):
        read_segmentation(tmp_path)


def test_held_out_objects_are_stratified(tmp_path):
    """A fifth of the images with each class, by the rarest one in an image."""
    for number in range(40):
        name = f"i{number:02}"
        layouts.image(tmp_path / "images" / name)
        path = tmp_path / "labels" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        rare = "1 0.5 0.5 0.5 0.5\n" if number < 10 else ""
        path.write_text("0 0.5 0.5 0.5 0.5\n" + rare)
    for seed in range(3):
        data = read_detection(tmp_path, seed=seed)
        assert data.sizes() == {"train": 32, "validation": 8}
        counts = [each["classes"] for each in describe_data(data)["splits"].values()]
        assert counts == [{"0": 32, "1": 8}, {"0": 8, "1": 2}]


def test_masks_of_other_sizes_and_without_images_are_listed(tmp_path):
    layouts.masks_with_splits_above(tmp_path)
    layouts.write_map(tmp_path / "train/masks/a.png", layouts.MAP[:20])
    layouts.write_map(tmp_path / "train/masks/alone.png")
    layouts.image(tmp_path / "train/images/bare")
    with pytest.raises(ValueError, match=r"another size than its image \(a.jpg\)") as raised:
        read_segmentation(tmp_path)
    assert "1 × image without a segmentation map (bare.jpg)" in str(raised.value)
    assert "1 × segmentation map without an image (alone.png)" in str(raised.value)
    data = read_segmentation(tmp_path, invalid="drop")
    assert data.sizes() == {"train": 2, "validation": 1}
    assert "dropped from train: 1 × segmentation map without" in report_text(describe_data(data))


YOLO_LINES = {
    "malformed line": "0 0.5 0.5 0.1",
    "unknown class": "7 0.5 0.5 0.1 0.1",
    "coordinate outside of 0 to 1": "0 20 12 8 8",
    "box without area": "0 0.5 0.5 0 0.1",
    "number that is not finite": "0 nan 0.5 0.1 0.1",
}


@pytest.mark.parametrize("reason", YOLO_LINES)
def test_invalid_lines_of_yolo(reason, tmp_path):
    layouts.yolo_of_ultralytics(tmp_path)
    path = tmp_path / "labels/train/b.txt"
    path.write_text(f"{path.read_text()}{YOLO_LINES[reason]}\n")
    with pytest.raises(ValueError, match=rf"1 × {reason} \(labels/train/b.txt:2\)"):
        read_detection(tmp_path)
    data = read_detection(tmp_path, invalid="drop")
    assert data.invalid_annotations == {"train": {reason: ["labels/train/b.txt:2"]}}
    assert sum(len(each["boxes"]) for each in data.train) == 3


def test_yolo_reads_nothing_outside_of_its_folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    layouts.yolo_of_ultralytics(tmp_path)
    (tmp_path / "data.yaml").rename(inside / "data.yaml")
    with pytest.raises(ValueError, match="`train` must be folders of images.* inside .*inside"):
        read_detection(inside)
    data = read_detection(inside, allow_outside=True)
    assert sum(data.sizes().values()) == 4


def test_shapes_of_labelme(tmp_path):
    layouts.labelme(tmp_path)
    contents = json.loads((tmp_path / "d.json").read_text())
    contents["shapes"] += [
        {"label": "stork", "points": [[20, 12], [23, 16]], "shape_type": "circle"},
        {"label": "stork", "points": [[20, 12], [24, 12]], "shape_type": "line"},
        {"label": "stork", "points": [[20], [24, 12]], "shape_type": "rectangle"},
    ]
    (tmp_path / "d.json").write_text(json.dumps(contents))
    data = read_detection(tmp_path, "labelme", invalid="drop", seed=1)
    reasons = {"shape of type 'line'": ["d.json #3"], "malformed points": ["d.json #4"]}
    assert data.invalid_annotations == {"train": reasons}
    examples = {each["image"].stem: each for split in data.splits.values() for each in split}
    assert examples["d"]["boxes"].tolist() == [[8, 8, 16, 16], [15, 7, 25, 17]]


def test_classes_files(tmp_path):
    read = keras_spm.data.read_classes
    path = tmp_path / "classes.json"
    colors = {"sky": [1, 2, 3], "road": [4, 5, 6]}
    for contents in (["sky", "road"], {"0": "sky", "1": "road"}, colors):
        path.write_text(json.dumps(contents))
        assert read(path).names == ["sky", "road"]
    assert read(path).colors.tolist() == [[1, 2, 3], [4, 5, 6]]
    text = tmp_path / "classes.txt"
    text.write_text("sky 1 2 3\nparking lot\t4,5,6\n")
    assert read(text).names == ["sky", "parking lot"]
    assert read(text).colors.tolist() == [[1, 2, 3], [4, 5, 6]]
    for contents in ("[1, 2]", "{", '{"sky": [1, 2]}', '["sky", "sky"]', "3"):
        path.write_text(contents)
        with pytest.raises(ValueError, match="classes.json is not a list of classes: "):
            read(path)
    text.write_text("sky 1 2 3\nroad\n")
    with pytest.raises(ValueError, match="some classes have a color, and some have none"):
        read(text)


def test_a_palette_is_no_obstacle(tmp_path):
    layouts.masks_without_splits(tmp_path)
    for path in (tmp_path / "SegmentationClass").iterdir():
        picture = Image.fromarray(layouts.MAP)
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        picture.save(path)
    example = read_segmentation(tmp_path).train[0]
    np.testing.assert_array_equal(example["segmentation_map"], layouts.MAP)
