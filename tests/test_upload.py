"""Uploading presets to the hub."""

import pytest
from huggingface_hub import constants, errors

import keras_spm
from keras_spm.weights import FormatError
from tests import golden
from tests.helpers import difference, randomize
from tests.upload_server import COMMIT, upload_server

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


@pytest.fixture
def created(tmp_path, monkeypatch):
    """{repository: whether it is private} of a running hub."""
    with upload_server(tmp_path / "there") as (url, created):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield created


@pytest.fixture
def model(tmp_path):
    model = randomize(golden.classifier("pvt_v2_spm"))
    model.save_to_preset(tmp_path / "birds")
    return model


def test_round_trip(created, model, tmp_path):
    address = keras_spm.upload_preset(tmp_path / "birds", "hf://me/birds", private=True)
    assert address == f"hf://me/birds@{COMMIT}" and created == {"me/birds": True}
    again = keras_spm.ImageClassifier.from_preset(tmp_path / "there/me/birds")
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        assert difference(ours, theirs) == 0
    assert "library_name: keras-spm" in (tmp_path / "there/me/birds/README.md").read_text()
    keras_spm.upload_preset(tmp_path / "birds", "hf://me/birds")  # Another commit.


def test_only_files_of_the_preset_are_uploaded(created, model, tmp_path):
    folder, secret = tmp_path / "birds", tmp_path / "secret"
    secret.write_text("key")
    for name in (".env", "id_rsa", "notes/config.json", "README.md.orig", ".git/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    (folder / "link").symlink_to(secret)
    keras_spm.upload_preset(folder, "hf://me/birds")
    there = tmp_path / "there/me/birds"
    assert {str(path.relative_to(there)) for path in there.rglob("*")} == {
        *("config.json", "model.safetensors", "README.md")
    }
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret)
    with pytest.raises(FormatError, match=r"README\.md is a link"):
        keras_spm.upload_preset(folder, "hf://me/owls")
    assert "me/owls" not in created
    (folder / "README.md").unlink()
    keras_spm.upload_preset(folder, "hf://me/owls")


def test_incomplete_folder_is_not_uploaded(created, model, tmp_path):
    with pytest.raises(ValueError, match="must be hf://owner/name"):
        keras_spm.upload_preset(tmp_path / "birds", "me/birds")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        keras_spm.upload_preset(tmp_path, "hf://me/birds")
    weights = tmp_path / "birds/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(FormatError, match="damaged"):
        keras_spm.upload_preset(tmp_path / "birds", "hf://me/birds")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        keras_spm.upload_preset(tmp_path / "birds", "hf://me/birds")
    assert not created and not (tmp_path / "there").exists()


def test_error_of_the_hub(created, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        keras_spm.upload_preset(tmp_path / "birds", "hf://me/birds")
    assert not created
