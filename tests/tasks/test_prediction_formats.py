"""Files of `keras-spm predict --format`, read back."""

import csv
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_spm import ImageClassifier, SemanticSegmenter, cli
from keras_spm.data import CocoDetection
from keras_spm.heads import SemanticFPN
from keras_spm.tasks import PredictionFormat
from tests import golden
from tests.helpers import conv_backbone, difference, tiny_backbone

pytestmark = pytest.mark.only("torch")  # Files do not depend on the backend.

NAMES = ["cat", "dog, large", 'a "bird"']
SIZES = {"a/x.png": (64, 64), "a/y.jpg": (50, 90), "z.png": (70, 40)}


@pytest.fixture(scope="module")
def detector():
    return golden.distinct_detector(NAMES, max_detections=9)


@pytest.fixture(scope="module")
def segmenter():
    decoder = SemanticFPN(pyramid_channels=8, channels=8)
    return golden.randomize_task(SemanticSegmenter(conv_backbone(), 3, decoder, NAMES))


@pytest.fixture(scope="module")
def classifier():
    return golden.randomize_task(ImageClassifier(tiny_backbone(), 3, NAMES))


@pytest.fixture
def predict(tmp_path, monkeypatch):
    """A function that runs the command on three images with a model; returns its status."""
    generator = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for name, size in SIZES.items():
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype="uint8")).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def run(model, *arguments, images=tuple(SIZES)):
        monkeypatch.setattr(cli.trainer, "load_task", lambda name: model)
        return cli.main(["predict", "model", *images, *arguments])

    return run


def _rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_of_a_detector_equals_detect(predict, detector, tmp_path):
    assert predict(detector, "--format", "csv", "--output", "out", "--score-threshold", "0") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    rows = _rows("out/predictions.csv")
    assert list(rows[0]) == ["path", "class", "score", "left", "top", "right", "bottom"]
    found = detector.detect(list(SIZES))
    assert len(rows) == sum(len(each["labels"]) for each in found) > 5
    for name, each in zip(SIZES, found, strict=True):
        own = [row for row in rows if row["path"] == name]
        boxes = [[row[side] for side in ("left", "top", "right", "bottom")] for row in own]
        assert [row["class"] for row in own] == [NAMES[label] for label in each["labels"]]
        # Nine digits tell all float32 apart.
        assert (np.array([row["score"] for row in own], "float32") == each["scores"]).all()
        assert (np.array(boxes, "float32") == each["boxes"]).all()


def test_coco_is_accepted_by_pycocotools(predict, detector):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    assert predict(detector, "--format", "coco", "--output", "out", "--score-threshold", "0") == 0
    contents = json.loads(pathlib.Path("out/predictions.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in contents["categories"]] == NAMES
    truth = COCO("out/predictions.json")
    results = truth.loadRes(contents["annotations"])
    for image, (name, size), each in zip(
        contents["images"], SIZES.items(), detector.detect(list(SIZES)), strict=True
    ):
        assert (image["file_name"], image["height"], image["width"]) == (name, *size)
        own = results.loadAnns(results.getAnnIds(image["id"]))
        boxes = np.array([record["bbox"] for record in own])
        boxes[:, 2:] += boxes[:, :2]
        assert difference(boxes, each["boxes"]) <= 1e-5
        assert [record["category_id"] - 1 for record in own] == each["labels"].tolist()
        assert [record["score"] for record in own] == each["scores"].tolist()
    evaluation = COCOeval(truth, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1  # Against themselves.
    # As annotations to correct, they are a data set.
    assert len(CocoDetection("out/predictions.json", ".")) == 3


def test_yolo_equals_detect(predict, detector):
    arguments = ("--format", "yolo", "--output", "out", "--tile", "48", "--overlap", "0.5")
    assert predict(detector, *arguments, "--tta", "flip", "--score-threshold", "0.5") == 0
    found = detector.detect(list(SIZES), tile=48, overlap=0.5, tta="flip")
    for (name, (height, width)), each in zip(SIZES.items(), found, strict=True):
        path = f"out/{name.rpartition('.')[0]}.txt"
        with open(path, encoding="utf-8") as file:
            rows = np.array([line.split() for line in file], "float64").reshape(-1, 6)
        likely = each["scores"] >= 0.5
        centers, sizes = rows[:, 1:3] * [width, height], rows[:, 3:5] * [width, height]
        boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
        assert 0 < likely.sum() == len(rows)
        assert (rows[:, 0] == each["labels"][likely]).all()
        assert difference(boxes, each["boxes"][likely]) <= 1e-4
        assert difference(rows[:, 5], each["scores"][likely]) <= 1e-6


def test_masks_equal_segment(predict, segmenter, tmp_path):
    assert predict(segmenter, "--format", "masks", "--tile", "48x64") == 0
    names = ["predictions/a/x.png", "predictions/a/y.png", "predictions/z.png"]
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("p*/**/*.png"))
    assert found == names
    maps = segmenter.segment(list(SIZES), tile=(48, 64))
    for name, expected in zip(names, maps, strict=True):
        with Image.open(name) as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), expected)


def test_csv_of_a_classifier_equals_classify(predict, classifier):
    arguments = ("--format", "csv", "--output", "out", "--top", "2", "--tta", "flip")
    assert predict(classifier, *arguments) == 0
    rows = _rows("out/predictions.csv")
    assert list(rows[0]) == ["path", "class", "probability"] and len(rows) == 6
    for index, name in enumerate(SIZES):
        expected = classifier.classify(name, top=2, tta="flip")
        own = rows[2 * index : 2 * index + 2]
        assert {row["path"] for row in own} == {name}
        assert [row["class"] for row in own] == [each for each, _ in expected]
        shares = [float(row["probability"]) for row in own]
        assert shares == pytest.approx([share for _, share in expected], abs=1e-6)


def test_what_a_task_does_not_support(predict, classifier, segmenter, detector, capsys):
    for model, arguments, message in (
        (classifier, ["--format", "coco"], "does not support `--format coco`. Supported: csv."),
        (segmenter, ["--format", "yolo"], "does not support `--format yolo`. Supported: masks."),
        (detector, ["--format", "masks"], "Supported: csv, coco, yolo."),
        (classifier, ["--tile", "64"], "does not support `--tile`. Supported: `--tta`."),
        (detector, ["--overlap", "0.5"], "`--overlap` needs `--tile`"),
        (segmenter, ["--tile", "8"], "`tile` must be an integer of at least 32"),
        (segmenter, ["--tta", "rotate"], "Available: none, flip."),
    ):
        assert predict(model, *arguments) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    with pytest.raises(SystemExit):
        predict(detector, "--tile", "large")
    assert "must be a size such as 512 or 512x768. Received: large" in capsys.readouterr().err


def _write_sizes(task, images, path):
    path.write_text("".join(f"{image.path} {image.prediction.shape}\n" for image in images))


def test_a_format_of_ones_own(predict, segmenter, tmp_path, capsys, monkeypatch):
    formats = {"sizes": PredictionFormat("sizes.txt", _write_sizes)}
    monkeypatch.setattr(type(segmenter), "prediction_formats", formats)
    assert predict(segmenter, "--output", "out", "--format", "sizes") == 0
    lines = (tmp_path / "out/sizes.txt").read_text().splitlines()
    assert lines == [f"{name} {size}" for name, size in SIZES.items()]
    assert predict(segmenter, "--output", "out", "--format", "size") == 2
    assert "does not support `--format size`. Supported: sizes." in capsys.readouterr().err


def test_no_file_replaces_another_one_or_an_image(predict, segmenter, detector, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save("a/x.bmp")
    images = ("a/x.png", "a/x.bmp")
    assert predict(detector, "--format", "yolo", "--output", "out", images=images) == 2
    assert "out/a/x.txt would be the file of a/x.png and of a/x.bmp" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (".", "link"):
        assert predict(segmenter, "--format", "masks", "--output", folder) == 2
        assert "a/x.png, the file of a/x.png, would replace an image" in capsys.readouterr().err


def test_an_interrupted_prediction_leaves_no_file(predict, detector, tmp_path, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(detector, "predict_on_batch", interrupted)
    for name in ("csv", "coco", "yolo"):
        assert predict(detector, "--format", name, "--output", "out") == 130
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
