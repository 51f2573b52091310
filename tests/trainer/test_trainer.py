"""Recipes, run folders and `keras-spm train`."""

import csv
import importlib.util
import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_spm import trainer
from keras_spm.cli import main
from keras_spm.data import DetectionBatching, DigitScenes, ImageBatching, load_dataset
from keras_spm.trainer import dense

RECIPES = trainer.recipes_folder()
RECIPE = "classification_digits"
TENSORBOARD = ["tensorboard"] if importlib.util.find_spec("tensorboard") else []


@pytest.mark.only("torch")
def test_recipe_overrides_are_typed():
    recipe = trainer.load_recipe(RECIPE, ["epochs=5", "learning_rate=1", "seed=7"])
    assert (recipe.epochs, recipe.learning_rate, recipe.seed) == (5, 1.0, 7)


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("detection_digits", [], "Unknown recipe"),
        ("classification_digit", [], "Did you mean 'classification_digits'"),
        (RECIPE, ["epoch=3"], "Did you mean 'epochs'"),
        (RECIPE, ["epochs=2.5"], "'epochs' must be int"),
        (RECIPE, ["epochs=many"], "must be a number, true or false"),
        (RECIPE, ["epochs"], "key=value"),
        (RECIPE, ["epochs=null"], "'epochs' must be int. Received: None"),
        (RECIPE, ["epochs=[5]"], r"'epochs' must be int. Received: \[5\]"),
        (RECIPE, ["epochs=true"], "'epochs' must be int. Received: True"),
        (RECIPE, ["epochs=0"], "at least 1 and at most .* Received: epochs=0"),
        (RECIPE, ["learning_rate=NaN"], "Received: learning_rate=nan"),
        (RECIPE, ["load_weights=1"], "'load_weights' must be bool. Received: 1"),
        (RECIPE, ["optimizer.epsilon=1e-8"], "Did you mean 'epsilon'"),
        (RECIPE, ["anchor_scale=2"], "Unknown recipe key 'anchor_scale'"),
        ("detection_coco", ["mixup=0.8"], "Unknown recipe key 'mixup'"),
    ],
)
def test_errors_of_recipes(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        trainer.load_recipe(name, overrides)


@pytest.mark.only("torch")
def test_a_recipe_file_is_checked(tmp_path):
    text = (RECIPES / f"{RECIPE}.py").read_text()
    (tmp_path / "classification_misspelt.py").write_text(
        text.replace("epochs: int", "epoch: int", 1)
    )
    with pytest.raises(ValueError, match="Did you mean 'epochs'"):
        trainer.load_recipe("classification_misspelt", folder=tmp_path)
    (tmp_path / "classification_short.py").write_text("epochs = 3")
    with pytest.raises(ValueError, match="lacks preset"):
        trainer.load_recipe("classification_short", folder=tmp_path)


@pytest.mark.only("torch")
def test_the_command_writes_a_run_folder(tmp_path, capsys):
    output = tmp_path / "run"
    arguments = [
        "train",
        RECIPE,
        "--output",
        str(output),
        "--set",
        "epochs=2",
        "--set",
        "warmup_epochs=1",
    ]
    assert main(arguments) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {
        "recipe.json",
        "environment.json",
        "metrics.csv",
        "best.keras",
        "curves.png",
        "confusion_matrix.png",
        "predictions.png",
        "result.json",
        "samples.png",
        "data.json",
        *TENSORBOARD,
    }
    assert list(tmp_path.iterdir()) == [output]
    result = json.loads((output / "result.json").read_text())
    rows = list(csv.DictReader((output / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 2
    losses = [float(row["val_loss"]) for row in rows]
    assert losses[1] < losses[0] and result["best_epoch"] == 2
    assert json.loads((output / "environment.json").read_text())["keras"] == keras.__version__

    model = keras.saving.load_model(output / "best.keras")
    images, labels = load_dataset("digits").test
    accuracy = np.mean(model.predict(images, verbose=0).argmax(-1) == labels)
    assert accuracy == pytest.approx(result["test_accuracy"])
    assert model.class_names == [str(digit) for digit in range(10)]

    # The same command does not train again; another recipe is refused.
    before = (output / "result.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert "already finished" in capsys.readouterr().out
    assert (output / "result.json").stat().st_mtime_ns == before
    assert main([*arguments, "--set", "seed=5"]) == 2
    assert "seed: 0 in the folder, 5 now" in capsys.readouterr().err


SMALL = ("epochs=2", "steps_per_epoch=2", "warmup_steps=1", "batch_size=4", "pyramid_channels=8")
FILES = {
    *("recipe.json", "environment.json", "metrics.csv", "best.keras", "curves.png"),
    *("predictions.png", "result.json", "samples.png", "data.json", *TENSORBOARD),
}


TEST_SCENES = 48
FIELDS = ("image", "segmentation_map")


@pytest.fixture
def few_scenes(monkeypatch):
    monkeypatch.setattr(dense, "VALIDATION_SCENES", 16)
    monkeypatch.setattr(dense, "TEST_SCENES", TEST_SCENES)


def _run(recipe, output, *overrides):
    """Runs a recipe with small settings. Returns (result, model)."""
    settings = [part for each in (*SMALL, *overrides) for part in ("--set", each)]
    assert main(["train", recipe, "--output", str(output), *settings]) == 0
    result = json.loads((output / "result.json").read_text())
    return result, keras.saving.load_model(output / "best.keras")


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("[!_]*.py")])
def test_every_recipe_is_complete(name):
    # The recipes of folders have as many steps as the data.
    is_dense = not name.startswith("classification")
    by_data = ["steps_per_epoch=100"] if is_dense and name.endswith("_folder") else []
    recipe = trainer.load_recipe(name, by_data)
    by_epochs = isinstance(recipe, trainer.ClassificationRecipe)
    steps = 100 if by_epochs else recipe.steps
    schedule = recipe.learning_rate_schedule(*[100] * by_epochs)
    warmup = recipe.warmup_epochs * 100 if by_epochs else recipe.warmup_steps
    assert float(schedule(max(warmup, 1))) == pytest.approx(recipe.learning_rate, rel=2e-2)
    assert float(schedule(recipe.epochs * steps - 1)) <= recipe.learning_rate / 99
    assert not warmup or float(schedule(0)) <= recipe.learning_rate / warmup * 1.001


@pytest.mark.only("torch")
def test_the_step_schedule_of_12_epochs():
    recipe = trainer.load_recipe("detection_coco")
    schedule = recipe.learning_rate_schedule()
    epoch = recipe.steps_per_epoch
    found = [float(schedule(step)) for step in (250, 8 * epoch, 8 * epoch + 1, 11 * epoch + 1)]
    assert found == pytest.approx([251 / 500 * 1e-4, 1e-4, 1e-5, 1e-6])
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert float(again(250)) == pytest.approx(found[0])


@pytest.mark.only("torch")
def test_a_segmentation_run(tmp_path, capsys, few_scenes):
    sizes = ("image_size=64", "test_min_size=64", "test_max_size=64", "head_channels=8")
    result, model = _run("segmentation_digit_scenes", tmp_path / "run", *sizes)
    assert "test mean iou: " in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == FILES | {"metrics_per_class.csv"}
    images, segmentation_maps = zip(
        *(
            (each["image"], each["segmentation_map"])
            for each in DigitScenes("test", TEST_SCENES, 64)
        ),
        strict=True,
    )
    again = model.evaluate(
        np.stack(images), np.stack(segmentation_maps), verbose=0, return_dict=True
    )
    assert again["mean_iou"] == pytest.approx(result["test_mean_iou"], abs=1e-6)
    assert again["pixel_accuracy"] == pytest.approx(result["test_pixel_accuracy"], abs=1e-6)
    text = (tmp_path / "run" / "metrics_per_class.csv").read_text()
    per_class = list(csv.DictReader(text.splitlines()))
    assert [row["class"] for row in per_class] == model.class_names
    values = [float(row["iou"]) for row in per_class]
    assert np.mean(values) == pytest.approx(result["test_mean_iou"], abs=1e-4)


@pytest.mark.only("torch")
def test_a_detection_run(tmp_path, capsys, few_scenes):
    sizes = ("min_size=64", "max_size=64", "head_channels=8", "num_convs=1")
    result, model = _run("detection_digit_scenes", tmp_path / "run", *sizes)
    assert "test AP50: " in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == FILES | {"metrics_per_class.csv"}
    scenes = list(DigitScenes("test", TEST_SCENES, 64))
    batch = DetectionBatching(ImageBatching(), max_objects=8)(scenes)
    again = model.evaluate(*batch, verbose=0, return_dict=True)
    assert again["AP"] == pytest.approx(result["test_AP"], abs=1e-6)


@pytest.mark.only("torch")  # Reading is the same on every backend.
def test_the_ade20k_recipe(tmp_path):
    """With scenes in the layout of `ADEChallengeData2016`."""
    for split, count in ("training", 6), ("validation", 3):
        for kind in "images", "annotations":
            (tmp_path / kind / split).mkdir(parents=True)
        for number, scene in enumerate(DigitScenes("train", count, 80)):
            Image.fromarray(scene["image"]).save(tmp_path / "images" / split / f"{number}.jpg")
            labels = scene["segmentation_map"]  # 0 is ignored in this data set.
            Image.fromarray(labels).save(tmp_path / "annotations" / split / f"{number}.png")
    overrides = (
        *("preset=pvt_v2_spm_mini", "load_weights=false", f"data_folder={tmp_path}"),
        *("image_size=64", "test_min_size=64", "test_max_size=256", "head_channels=8"),
    )
    result, model = _run("segmentation_ade20k", tmp_path / "run", *overrides)
    assert 0 <= result["validation_mean_iou"] <= 1 and model.num_classes == 150


@pytest.mark.only("torch")  # Reading is the same on every backend.
def test_the_coco_recipe_on_custom_data(tmp_path):
    (tmp_path / "images").mkdir()
    for split in "train", "validation":
        records, pictures = [], []
        for number, scene in enumerate(DigitScenes(split, 4, 80)):
            name = f"{split}{number}.png"
            Image.fromarray(scene["image"]).save(tmp_path / "images" / name)
            pictures.append({"id": number, "file_name": name, "height": 80, "width": 80})
            for box, label in zip(scene["boxes"].tolist(), scene["labels"].tolist(), strict=True):
                left, top, right, bottom = box
                sides = [right - left, bottom - top]
                records.append(
                    {
                        "id": len(records) + 1,
                        "image_id": number,
                        "bbox": [left, top, *sides],
                        "category_id": label + 1,
                        "area": sides[0] * sides[1],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
        contents = {"images": pictures, "categories": categories, "annotations": records}
        (tmp_path / f"{split}.json").write_text(json.dumps(contents))
    overrides = (
        *("preset=pvt_v2_spm_mini", "load_weights=false", f"data_folder={tmp_path}"),
        *("dataset=coco", "min_size=64", "max_size=96", "frozen_stages=2"),
        *("head_channels=8", "num_convs=1", "max_objects=30", "max_detections=7"),
    )
    result, model = _run("detection_coco", tmp_path / "run", *overrides)
    assert 0 <= result["validation_AP"] <= 1 and "test_AP" not in result
    assert model.detector.max_detections == 7
    assert model.class_names == list("0123456789")
    assert model.batching.get_config()["max_size"] == 96


@pytest.mark.only("torch")
@pytest.mark.parametrize("is_hidden", [False, True])
def test_an_interrupted_run_is_not_finished(tmp_path, monkeypatch, is_hidden):
    recipe = trainer.load_recipe(RECIPE)
    folder = trainer.RunFolder(tmp_path / "run")

    def interrupt(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            if is_hidden:  # As by Keras on JAX.
                raise TypeError("'NoneType' object is not callable")

    monkeypatch.setattr("keras_spm.tasks.ImageClassifier.fit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(recipe, folder, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run-UNFINISHED"]
    assert folder.result is None


@pytest.mark.only("torch")
def test_an_unknown_preset_or_data_set_writes_nothing(tmp_path, capsys):
    for override, nearest in (
        ("preset=pvt_v2_smp_mini", "'pvt_v2_spm_mini'"),
        ("dataset=digts", "'digits'"),
    ):
        arguments = ["train", RECIPE, "--output", str(tmp_path / "run"), "--set", override]
        assert main(arguments) == 2
        assert f"Did you mean {nearest}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.only("torch")
def test_another_folder_is_not_changed(tmp_path, capsys):
    (tmp_path / "keep.txt").write_text("mine")
    assert main(["train", RECIPE, "--output", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert (tmp_path / "keep.txt").read_text() == "mine"
