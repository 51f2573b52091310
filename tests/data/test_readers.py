"""Registered data formats: names of splits, and a format of a user's own."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm.data.readers import Reader, find_splits, readers_of, register_reader
from keras_spm.registry import READERS
from keras_spm.trainer import load_recipe

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


def test_all_formats_are_registered():
    expected = {
        "classification": {"csv", "folder", "imagenet2012", "tfds"},
        "detection": {"coco", "labelme", "tfds_coco", "voc", "yolo"},
        "segmentation": {"ade20k", "cityscapes", "masks", "tfds_ade20k", "voc"},
    }
    for task, names in expected.items():
        assert names <= set(readers_of(task))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (
            ["train", "val", "test", "extra"],
            {"train": "train", "validation": "val", "test": "test"},
        ),
        (["val", "validation", "valid"], {"validation": "validation"}),
        (["train2017", "my_val"], {"train": "train2017", "validation": "my_val"}),
        (["constraint", "trainannot", "train_and_test"], {}),
        (["train", "valid"], {"train": "train", "validation": "valid"}),
        ([], {}),
    ],
)
def test_splits_are_found_by_usual_names(names, splits):
    assert find_splits(names) == splits


@pytest.fixture
def photos(tmp_path):
    for name in ("heron/a.png", "stork/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    return tmp_path


def test_folders_with_and_without_splits(photos):
    read = READERS["classification/folder"]
    assert read.splits(photos) == {"train": None}
    examples = read(photos, None)
    assert examples.class_names == ["heron", "stork"] and examples.labels.tolist() == [0, 1]
    assert read(photos, None, ["stork", "heron"]).labels.tolist() == [1, 0]
    assert read.splits(photos / "heron") == {"train": None}
    (photos / "train/heron").mkdir(parents=True)
    (photos / "val").mkdir()
    assert read.splits(photos) == {"train": "train", "validation": "val"}


def test_tables_with_and_without_splits(photos):
    read = READERS["classification/csv"]
    table = photos / "table.csv"
    table.write_text("path,label\nheron/a.png,x\nstork/a.png,y\n")
    assert read.splits(table) == {"train": None} and len(read(table, None)) == 2
    table.write_text("path,label,split\nheron/a.png,x,train\nstork/a.png,y,valid\n")
    assert read.splits(table) == {"train": "train", "validation": "valid"}
    assert read(table, "valid").class_names == ["x", "y"]


class Stripes:
    """A toy format whose folder has one text file per split, with one color per line."""

    class_names = ["dark", "light"]
    invalid_annotations = {}

    def __init__(self, folder, split):
        lines = pathlib.Path(folder, f"{split}.txt").read_text().split()
        self._levels = [int(line) for line in lines]

    def __len__(self):
        return len(self._levels)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), self._levels[index], "uint8")
        return {"image": image, "segmentation_map": (image[..., 0] > 127).astype("uint8")}


@pytest.fixture
def stripes(tmp_path):
    """The folder of registered toy data; the format is removed after the test."""

    @register_reader("segmentation", "stripes", {"train": "bright", "validation": "dim"})
    def read_stripes(folder, split, class_names, invalid, verify):
        return Stripes(folder, split)

    (tmp_path / "bright.txt").write_text("200 90 255")
    (tmp_path / "dim.txt").write_text("10 130")
    yield tmp_path
    del READERS._objects["segmentation/stripes"]


def test_a_registered_format_is_known_to_recipes(stripes):
    overrides = ["dataset=stripes", f"data_folder={stripes}"]
    data = load_recipe("segmentation_ade20k", overrides).splits()
    assert data.class_names == ["dark", "light"]
    assert (len(data.train), len(data.validation), data.test) == (3, 2, None)
    assert data.train[1]["segmentation_map"].max() == 0


def test_a_format_has_a_default_for_invalid_annotations(tmp_path):
    received = []

    def read(folder, split, class_names, invalid, verify):
        received.append(invalid)

    for reader in (Reader(read, "a", {}), Reader(read, "b", {}, "drop")):
        reader(tmp_path, None)
        reader(tmp_path, None, invalid="raise")
    assert received == ["raise", "raise", "drop", "raise"]
    assert READERS["detection/tfds_coco"].invalid == "drop"
    assert READERS["detection/coco"].invalid == "raise"


def test_options_of_other_formats(tmp_path):
    with pytest.raises(ValueError, match="`label_map` is not an option of the data format 'voc'"):
        READERS["detection/voc"](tmp_path, None, label_map={255: 1})
    with pytest.raises(ValueError, match="which has `allow_outside`. Received: label_map="):
        READERS["detection/coco"](tmp_path, None, label_map={255: 1})


def test_splits_must_have_the_same_classes(stripes):
    read = READERS["segmentation/stripes"]
    assert len(read(stripes, "dim", ("dark", "light"))) == 2
    with pytest.raises(ValueError, match=r"'dim' must have the classes \['light'\]. Received: \["):
        read(stripes, "dim", ["light"])


def test_a_name_is_registered_once(stripes):
    def other(folder, split, class_names, invalid, verify):
        return Stripes(folder, split)

    with pytest.raises(ValueError, match="data format 'segmentation/stripes' is already"):
        keras_spm.data.register_reader("segmentation", "stripes", {})(other)
