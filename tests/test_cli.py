"""The command line."""

import sys

import pytest
from safetensors import safe_open

from keras_spm.cli import main
from tests import golden
from tests.helpers import randomize


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
        (["model.keras", "weights.pth"], "must end in .safetensors"),
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
    assert 'pip install "keras-spm[coco,data,plot]"' in capsys.readouterr().err
