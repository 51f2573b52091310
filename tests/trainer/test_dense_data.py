"""The splits that dense recipes read of each data format."""

import pathlib
import types

import pytest
from PIL import Image

from keras_spm.trainer import load_recipe

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


def _segmentation(dataset, folder):
    overrides = [f"dataset={dataset}", f"data_folder={folder}"]
    return load_recipe("segmentation_ade20k", overrides).splits()


def _detection(dataset, folder, *more):
    overrides = [f"dataset={dataset}", f"data_folder={folder}", *more]
    return load_recipe("detection_coco", overrides).splits()


@pytest.fixture
def splits(monkeypatch):
    """The splits that are requested from TensorFlow Datasets, recorded by a mock builder."""
    requested = []
    names = ("image", "image/id", "objects", "annotation")
    info = types.SimpleNamespace(
        features=dict.fromkeys(names), splits=dict.fromkeys(("train", "validation", "test"))
    )
    builder = types.SimpleNamespace(
        info=info, as_data_source=lambda split, decoders=None: requested.append(split) or [split]
    )
    monkeypatch.setattr("tensorflow_datasets.builder_from_directory", lambda folder: builder)
    return requested


def test_splits_of_tensorflow_datasets(splits):
    data = _detection("tfds_coco", "coco/2017/1.1.0")
    assert splits == ["train", "validation"] and data.class_names[0] == "person"
    assert len(data.class_names) == 80
    data = _segmentation("tfds_ade20k", "scene_parse150/1.0.0")
    # Its classes are not those of the benchmark, so they do not have their names.
    assert splits[2:] == ["train", "test"] and data.class_names[0] == "class 0"


def test_splits_of_pascal_voc(tmp_path):
    for task in ("Main", "Segmentation"):
        (tmp_path / "ImageSets" / task).mkdir(parents=True)
        for split, name in ("train", "a"), ("val", "b"):
            (tmp_path / "ImageSets" / task / f"{split}.txt").write_text(f"{name}\n")
    for name in ("JPEGImages", "Annotations", "SegmentationClass"):
        (tmp_path / name).mkdir()
    for name in "ab":
        Image.new("RGB", (9, 5)).save(tmp_path / f"JPEGImages/{name}.jpg")
        Image.new("L", (9, 5)).save(tmp_path / f"SegmentationClass/{name}.png")
        size = "<size><width>9</width><height>5</height></size>"
        (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation>{size}</annotation>")
    for read, classes in ((_detection, 20), (_segmentation, 21)):
        data = read("voc", tmp_path)
        assert len(data.class_names) == classes
        names = [pathlib.Path(each[0]["image"]).stem for each in (data.train, data.validation)]
        assert names == ["a", "b"] and data.test is None


def test_splits_of_coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (9, 5)).save(tmp_path / split / f"{split}.jpg")
        text = (
            '{"images": [{"id": 1, "file_name": "PART.jpg", "height": 5, "width": 9}],'
            '"categories": [{"id": 1, "name": "person"}], "annotations": [{"id": 7,'
            '"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 0]}]}'
        )
        annotations = tmp_path / "annotations" / f"instances_{split}.json"
        annotations.write_text(text.replace("PART", split))
    data = _detection("coco", tmp_path, "invalid=drop")
    names = [examples[0]["image"].name for examples in (data.train, data.validation)]
    assert data.test is None and names == ["train2017.jpg", "val2017.jpg"]
    # COCO's own files include boxes without area.
    assert data.train.invalid_annotations == {"box without area": [7]}
