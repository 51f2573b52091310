"""The command line."""

import pathlib
import shutil
import sys
import tomllib
import zipfile

import keras
import pytest
from safetensors import safe_open

from keras_spm import registry, trainer
from keras_spm.cli import main
from tests import golden
from tests.helpers import randomize


@pytest.mark.only("torch")
def test_export_equals_to_torch_state_dict(tmp_path, capsys):
    from keras_spm import to_torch_state_dict

    model = randomize(golden.classifier("swin_spm"))
    model.save(tmp_path / "model.keras")
    target = tmp_path / "weights.safetensors"
    assert main(["export", str(tmp_path / "model.keras"), str(target), "--layout", "timm"]) == 0
    expected = to_torch_state_dict(model, "timm")
    assert f"{len(expected)} tensors written to {target}" in capsys.readouterr().out
    with safe_open(target, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(expected)
        assert all((file.get_tensor(key) == expected[key]).all() for key in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.keras", "weights.safetensors", "--layout=tim"], "layout='tim'"),
        (["model.keras", "weights.pth"], "Unknown suffix '.pth'"),
        (["nowhere.keras", "weights.safetensors"], "nowhere.keras"),
        (["model.keras", "no folder/weights.safetensors"], "no folder"),
    ],
)
def test_errors_of_export(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    golden.backbone("timm_swin").save("model.keras")
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.only("torch")
def test_a_missing_extra_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grain", None)
    assert main(["train", "classification_digits", "--dry-run"]) == 2
    assert 'pip install "keras-spm[coco,data,export,plot]"' in capsys.readouterr().err


OWN_RECIPE = """
import dataclasses

from keras_spm import trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnRecipe(trainer.ClassificationRecipe):
    kind = "own"

    def setup(self):
        raise KeyboardInterrupt
"""


@pytest.mark.only("torch")
def test_import_of_a_file_or_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_recipes.py").write_text(OWN_RECIPE)
    shutil.copy(trainer.recipes_folder() / "classification_digits.py", tmp_path / "own_digits.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry.RECIPES, "_objects", dict(registry.RECIPES))
    assert main(["train", "own_digits.py"]) == 2
    assert "Unknown kind of recipe 'own'" in capsys.readouterr().err
    for name in ("own_recipes.py", "own_recipes"):
        assert main(["train", "own_digits.py", "--import", name]) == 130
        assert "run the same command again to resume" in capsys.readouterr().err
    assert main(["predict", "model.keras", "a.jpg", "--import", "no_such_module"]) == 2
    assert "no_such_module" in capsys.readouterr().err
    (tmp_path / "keras.py").write_text("")
    assert main(["train", "own_digits.py", "--import", "keras.py"]) == 2
    assert "must have another name" in capsys.readouterr().err
    del sys.modules["own_recipes"]


@pytest.mark.only("torch")
def test_a_model_of_an_unknown_class(tmp_path, capsys):
    class Unknown(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((2,)), Unknown()]).save(path)
    assert main(["evaluate", str(path)]) == 2
    error = capsys.readouterr().err
    assert "Could not locate class 'Unknown'. Import its module with `--import`." in error
    assert error.count("\n") == 1


BROKEN = {
    "epochs = (": "SyntaxError: '(' was never closed",
    "epochs = 1 / 0": "ZeroDivisionError: division by zero",
    "epochs = unknown": "NameError: name 'unknown' is not defined",
    "assert False": "AssertionError",
    "def f(): f()\nf()": "RecursionError: maximum recursion depth exceeded",
    "raise MemoryError": "MemoryError",
}


@pytest.mark.only("torch")
@pytest.mark.parametrize("text", BROKEN)
def test_broken_recipes_end_in_one_line(tmp_path, capsys, text):
    recipe = tmp_path / "classification_broken.py"
    recipe.write_text(text)
    assert main(["train", str(recipe), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert BROKEN[text] in error and "classification_broken.py" in error


@pytest.mark.only("torch")
def test_a_defect_ends_in_one_line(monkeypatch, capsys):
    """With the place, because no one expected it."""
    monkeypatch.setattr(trainer, "load_task", lambda name: {}["layers"])
    assert main(["evaluate", "model"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: KeyError: 'layers' (") and error.count("\n") == 1
    assert "test_cli.py, line " in error


@pytest.mark.only("torch")
def test_errors_cannot_control_the_terminal(capsys):
    assert main(["evaluate", "\x1b[2J.keras"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.only("torch")
def test_the_file_of_metrics_is_checked_before_the_evaluation(tmp_path, monkeypatch, capsys):
    def load(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "load_task", load)
    monkeypatch.setattr(trainer, "load_keras_file", load)
    for arguments in (
        ["evaluate", "model", "--output"],
        ["export", "model.keras", "--format", "torch-weights"],
    ):
        for path, message in (
            (tmp_path, f"{tmp_path} is a folder"),
            (tmp_path / "new/file", f"{tmp_path}/new is not a folder"),
        ):
            assert main([*arguments, str(path)]) == 2
            error = capsys.readouterr().err
            assert f"must be a file in an existing folder, but {message}." in error
        assert main([*arguments, str(tmp_path / "file")]) == 130
        assert capsys.readouterr().err == "interrupted\n" and not list(tmp_path.iterdir())


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    "contents", ["[" * 100_000, "{", "[]", '{"class_name": "ImageClassifier"}']
)
def test_a_broken_configuration_in_a_keras_file(tmp_path, capsys, contents):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.keras", "w") as broken:
        for name in archive.namelist():
            broken.writestr(name, contents if name == "config.json" else archive.read(name))
    assert main(["evaluate", str(tmp_path / "b.keras")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'b.keras'} cannot be loaded: " in error and error.count("\n") == 1


@pytest.mark.only("torch")
def test_packages_are_complete():
    root = pathlib.Path(__file__).parents[1]
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = (path.parent.relative_to(root) for path in root.glob("keras_spm/**/__init__.py"))
    found = [".".join(folder.parts) for folder in folders]
    assert setuptools["packages"] == sorted([*found, "keras_spm.recipes"])
    assert setuptools["package-dir"] == {"keras_spm.recipes": "training/recipes"}
    assert trainer.recipes_folder() == root / "training/recipes"
