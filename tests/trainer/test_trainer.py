"""Recipes, run folders and the command."""

import csv
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_spm import trainer
from keras_spm.data import load_dataset

RECIPES = pathlib.Path(__file__).parents[2] / "training" / "recipes"
RECIPE = "classification_digits"


def test_recipe_overrides_are_typed():
    recipe = trainer.load_recipe(RECIPE, RECIPES, ["epochs=5", "learning_rate=1", "seed=7"])
    assert (recipe.epochs, recipe.learning_rate, recipe.seed) == (5, 1.0, 7)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("classification_digit", [], "Did you mean 'classification_digits'"),
        (RECIPE, ["epoch=3"], "Did you mean 'epochs'"),
        (RECIPE, ["epochs=2.5"], "'epochs' must be int"),
        (RECIPE, ["epochs=many"], "takes a number"),
        (RECIPE, ["epochs"], "key=value"),
        (RECIPE, ["epochs=3"], "warmup_epochs=3, epochs=3"),
    ],
)
def test_mistakes_in_a_recipe_are_named(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        trainer.load_recipe(name, RECIPES, overrides)


def test_a_recipe_file_is_checked(tmp_path):
    text = (RECIPES / f"{RECIPE}.py").read_text()
    (tmp_path / "misspelt.py").write_text(text.replace("epochs: int", "epoch: int", 1))
    with pytest.raises(ValueError, match="Did you mean 'epochs'"):
        trainer.load_recipe("misspelt", tmp_path)
    (tmp_path / "short.py").write_text("epochs = 3")
    with pytest.raises(ValueError, match="lacks preset"):
        trainer.load_recipe("short", tmp_path)


def test_a_run_from_the_command_leaves_everything(tmp_path, capsys):
    output = tmp_path / "run"
    arguments = [RECIPE, "--output", str(output), "--set", "epochs=2", "--set", "warmup_epochs=1"]
    assert trainer.main(RECIPES, arguments) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {
        "recipe.json",
        "environment.json",
        "metrics.csv",
        "best.keras",
        "curves.png",
        "confusion_matrix.png",
        "result.json",
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

    # The same command again trains nothing; another recipe is not taken for this one.
    before = (output / "result.json").stat().st_mtime_ns
    assert trainer.main(RECIPES, arguments) == 0
    assert "finished already" in capsys.readouterr().out
    assert (output / "result.json").stat().st_mtime_ns == before
    assert trainer.main(RECIPES, [*arguments, "--set", "seed=5"]) == 2
    assert "seed: 0 there, 5 now" in capsys.readouterr().err


def test_a_run_that_dies_does_not_look_finished(tmp_path, monkeypatch):
    recipe = trainer.load_recipe(RECIPE, RECIPES)
    folder = trainer.RunFolder(tmp_path / "run")

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_spm.tasks.ImageClassifier.fit", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.train_classifier(recipe, folder, verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run-UNFINISHED"]
    assert folder.result is None


def test_an_unknown_preset_or_data_set_leaves_nothing_behind(tmp_path, capsys):
    for override, nearest in (
        ("preset=pvt_v2_smp_mini", "'pvt_v2_spm_mini'"),
        ("dataset=digts", "'digits'"),
    ):
        arguments = [RECIPE, "--output", str(tmp_path / "run"), "--set", override]
        assert trainer.main(RECIPES, arguments) == 2
        assert f"Did you mean {nearest}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "keep.txt").write_text("mine")
    assert trainer.main(RECIPES, [RECIPE, "--output", str(tmp_path)]) == 2
    assert "no run of this trainer" in capsys.readouterr().err
    assert (tmp_path / "keep.txt").read_text() == "mine"
