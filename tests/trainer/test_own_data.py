"""Own data: one command for the folder as it is."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm import trainer
from keras_spm.cli import main
from keras_spm.registry import RECIPES
from keras_spm.trainer.callbacks import ProgressLines
from keras_spm.trainer.recipe_help import _documented_keys
from tests.data import layouts

pytestmark = pytest.mark.only("torch")  # Models and their training are tested elsewhere.

SMALL = (
    *("preset=mini", "load_weights=false", "epochs=1", "pyramid_channels=8", "head_channels=8"),
    *("seed=1", "ema_decay=0.9", "gradient_accumulation_steps=2", "dtype_policy=mixed_bfloat16"),
    "gradient_checkpointing=true",
)


def _sets(*overrides):
    return [part for each in overrides for part in ("--set", each)]


def test_a_detector(tmp_path, monkeypatch, capsys):
    (tmp_path / "birds").mkdir()
    layouts.yolo_of_roboflow(tmp_path / "birds")
    monkeypatch.chdir(tmp_path)
    settings = _sets(*SMALL, "min_size=24", "max_size=40", "num_convs=1", "size_divisor=64")
    settings += _sets("channels=4")
    command = ["train", "detection", "--data", "birds", *settings]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "YOLO format: 3 + 1 images, 2 classes, 4 boxes" in output
    assert "warmup_steps=0 instead of 200: there are only 1 steps" in output
    run = tmp_path / "runs/detection-torch-seed1"
    report = json.loads((run / "data.json").read_text())
    assert report["splits"]["train"]["classes"] == {"heron": 1, "stork": 2}
    model = keras.saving.load_model(run / "best.keras")
    assert model.class_names == layouts.NAMES and model.batching.size_divisor == 64
    assert model.backbone.dtype_policy.name == "mixed_bfloat16"
    assert model.backbone.gradient_checkpointing and model.optimizer.use_ema
    # The same command again does nothing; other settings get a folder of their own.
    assert main(command) == 0 and "already finished" in capsys.readouterr().out
    assert main([*command, *_sets("flip=0"), "--dry-run"]) == 0
    other = trainer.load_recipe("detection", [*SMALL, "data_folder=birds"])
    assert trainer.RunFolder.unused(run, other).path == tmp_path / "runs/detection-torch-seed1-2"
    assert main(["evaluate", str(run), "--output", "metrics.json"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 1 and "AP/heron" in metrics


def test_a_segmenter(tmp_path, capsys):
    for name in "abcde":
        layouts.image(tmp_path / "images" / name)
        values = np.uint8(255) * (layouts.MAP == 1)
        layouts.write_map(tmp_path / "masks" / f"{name}.png", values)
    (tmp_path / "classes.json").write_text('{"field": [9, 8, 7], "road": [1, 2, 3]}')
    settings = ("image_size=32", "test_min_size=32", "test_max_size=64", "channels=1")
    settings = (*settings, "label_map=255=1")
    command = ["train", "segmentation", "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    assert main([*command, *_sets(*SMALL, *settings[:-1])]) == 2
    assert "`label_map={255: 1}`" in capsys.readouterr().err
    assert main([*command, *_sets(*SMALL, *settings)]) == 0
    report = json.loads((tmp_path / "run/data.json").read_text())
    assert report["class_names"] == ["field", "road"] and len(report["held_out"]) == 1
    expected = int((layouts.MAP == 1).sum()) * 4
    assert report["splits"]["train"]["classes"]["road"] == expected
    model = keras.saving.load_model(tmp_path / "run/best.keras")
    assert model.backbone.image_shape == (None, None, 1) and len(model.mean) == 1
    # Its colors are those of the file.
    assert model.class_colors == [[9, 8, 7], [1, 2, 3]]
    photo, output = next((tmp_path / "images").iterdir()), tmp_path / "found"
    predict = ["predict", str(tmp_path / "run"), str(photo), "--format", "masks"]
    assert main([*predict, "--output", str(output)]) == 0
    with Image.open(next(output.rglob("*.png"))) as picture:
        assert picture.getpalette()[:6] == [9, 8, 7, 1, 2, 3]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert 0 < result["validation_mean_iou"] < 1
    assert main([*command, *_sets(*SMALL, "label_map=road")]) == 2
    assert "`label_map` must be pairs" in capsys.readouterr().err


def test_an_instance_segmenter(tmp_path):
    layouts.yolo_with_polygons(tmp_path)
    run = tmp_path / "run"
    settings = ("min_size=32", "max_size=64", "box_head_channels=8", "max_proposals=20")
    command = ["train", "instances", "--data", str(tmp_path), "--output", str(run)]
    assert main([*command, *_sets(*SMALL, *settings)]) == 0
    model = keras.saving.load_model(run / "best.keras")
    assert model.class_names == layouts.NAMES and type(model) is keras_spm.InstanceSegmenter
    result = json.loads((run / "result.json").read_text())
    assert {"validation_AP", "validation_mask_AP"} <= set(result)
    # The run folder's own recipe is used.
    assert main(["evaluate", str(run), "--output", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["mask_AP"] == pytest.approx(result["validation_mask_AP"], abs=1e-6)


def test_the_report_of_a_folder(tmp_path, capsys):
    layouts.coco_with_custom_names(tmp_path)
    assert main(["data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["detection", "COCO format: 3 + 1 images, 2 classes, 4 boxes"]
    assert [line.split() for line in lines[5:]] == [["heron", "1", "1"], ["stork", "2", "0"]]
    assert main(["data", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["task"] == "detection"
    assert report["splits"]["validation"]["classes"] == {"heron": 1, "stork": 0}
    assert main(["data", str(tmp_path), "--task", "segmentation"]) == 2
    assert "has no known format of segmentation data" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["data", str(tmp_path / "empty")]) == 2
    assert "has no known format of classification, detection" in capsys.readouterr().err
    layouts.yolo_of_ultralytics(tmp_path / "empty")
    bad = tmp_path / "empty/labels/train/b.txt"
    bad.write_text(bad.read_text() + "9 0 0 0 0\n")
    assert main(["data", str(tmp_path / "empty")]) == 0
    assert "dropped from train: 1 × unknown class (labels/train/b.txt:2)" in capsys.readouterr().out


def test_an_image_may_have_any_number_of_objects(tmp_path):
    layouts.yolo_of_ultralytics(tmp_path)
    path = tmp_path / "labels/train/b.txt"
    path.write_text("0 0.5 0.5 0.5 0.5\n" * 101)
    overrides = [*SMALL, f"data_folder={tmp_path}", "min_size=32", "max_size=64"]
    setup = trainer.load_recipe("detection", overrides).setup()
    _, targets = setup.first_batch()
    assert targets["labels"].shape == (8, 101)


@pytest.mark.parametrize("kind", ["classification", "detection", "instances", "segmentation"])
def test_every_key_is_described(kind, capsys):
    recipe = RECIPES[kind]
    described = _documented_keys(recipe)
    names = [field.name for field in dataclasses.fields(recipe)]
    assert [name for name in names if not described.get(name)] == []
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {path.stem} " in text for path in trainer.recipes_folder().glob("[a-z]*.py"))
    assert all(f"\n  {name}: " in text for name in names)


def test_short_names_of_presets():
    for recipe, preset, name in (
        ("detection", "mini", "pvt_v2_mini"),
        ("detection_coco", "b0", "pvt_v2_spm_b0"),
        ("detection", "swin_tiny", "swin_tiny"),
    ):
        assert trainer.load_recipe(recipe, [f"preset={preset}"]).preset == name


def test_progress_without_a_terminal(capsys):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    inputs = np.zeros((6, 2), "float32"), np.zeros((6, 1), "float32")
    model.fit(*inputs, batch_size=2, verbose=0, callbacks=[ProgressLines(0)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith("epoch 1, step 2 of 3, loss 0")
    model.fit(*inputs, batch_size=2, verbose=0, callbacks=[ProgressLines(60)])
    assert not capsys.readouterr().out
