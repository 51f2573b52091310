"""Downloads from the hub: complete and verified, or an error."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

import keras_spm
from keras_spm.cards import read_card
from keras_spm.weights import DownloadError
from keras_spm.weights.formats import sha256_of
from tests import golden
from tests.helpers import difference, randomize, to_numpy
from tests.hub_server import COMMIT, Hub

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub and an empty cache."""
    hub = Hub()
    with hub.running():
        for name, value in hub.settings(tmp_path / "caches").items():
            monkeypatch.setattr(constants, name, value)
        hub.cache = pathlib.Path(constants.HF_HUB_CACHE)
        yield hub


@pytest.fixture
def model(hub, tmp_path):
    """A classifier in the hub's repository owner/birds."""
    model = randomize(golden.classifier("swin_spm"))
    model.save_to_preset(tmp_path / "birds")
    hub.repositories["owner/birds"] = tmp_path / "birds"
    return model


def _outputs(model):
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    return model.predict(images, verbose=0)


def _blobs(hub):
    """Complete and partial weight files in the cache."""
    return [path for path in hub.cache.rglob("blobs/*") if path.stat().st_size > 10_000]


def test_own_format(hub, model):
    loaded = keras_spm.ImageClassifier.from_preset("hf://owner/birds")
    assert difference(_outputs(loaded), _outputs(model)) == 0
    assert keras_spm.SwinSPM.from_preset(f"hf://owner/birds@{COMMIT}").load_report.unexpected_keys
    asked = len(hub.asked)
    keras_spm.ImageClassifier.from_preset("hf://owner/birds", num_classes=2)
    bodies = [path for method, path in hub.asked[asked:] if method == "GET"]
    assert not bodies  # Read from the cache.


def test_all_files_are_of_one_commit(hub, model):
    keras_spm.SwinSPM.from_preset("hf://owner/birds")
    revisions = [path.split("/resolve/")[1].partition("/")[0] for _, path in hub.asked]
    assert set(revisions[2:]) == {COMMIT}  # Except the request that resolves main.


def _timm_folder(folder, model, architecture):
    folder.mkdir()
    save_file(keras_spm.to_torch_state_dict(model, "timm"), folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def published(hub, tmp_path):
    """The repository in the card of pvt_v2_b0, with random weights."""
    model = keras_spm.ImageClassifier.from_preset("pvt_v2_b0", load_weights=False)
    _timm_folder(tmp_path / "b0", model, "pvt_v2_b0")
    hub.repositories["timm/pvt_v2_b0.in1k"] = tmp_path / "b0"
    return model


def test_preset_loads_from_its_card(published):
    backbone = keras_spm.PVTv2.from_preset("b0")
    values = {variable.path: to_numpy(variable) for variable in backbone.weights}
    own = {variable.path: to_numpy(variable) for variable in published.backbone.weights}
    assert all((values[path] == own[path]).all() for path in own)
    model = keras_spm.ImageClassifier.from_preset("pvt_v2_b0")
    assert model.class_names[1] == "goldfish, Carassius auratus" and model.num_classes == 1000
    assert model.preprocessing.crop_pct == 0.9
    assert difference(_outputs(model), _outputs(published)) == 0
    for_ten = keras_spm.ImageClassifier.from_preset("pvt_v2_b0", num_classes=10)
    assert sorted(for_ten.load_report.missing_keys) == ["head/bias", "head/kernel"]


def _converted(hub):
    return list((hub.cache.parent / "assets").rglob("*.safetensors"))


def test_weights_are_converted_once(hub, published):
    first = keras_spm.PVTv2.from_preset("b0")
    (kept,) = _converted(hub)
    assert sha256_of(kept) == kept.stem
    asked = len(hub.asked)
    again = keras_spm.PVTv2.from_preset("b0")
    assert all("/model.safetensors" not in path for _, path in hub.asked[asked:])
    assert again.load_report.source == str(kept)
    for ours, theirs in zip(again.weights, first.weights, strict=True):
        assert difference(ours, theirs) == 0


def test_damaged_conversion_is_repeated(hub, published):
    keras_spm.PVTv2.from_preset("b0")
    (kept,) = _converted(hub)
    contents = bytearray(kept.read_bytes())
    contents[-5] ^= 1
    kept.write_bytes(contents)
    (kept.parent / ".temporary.safetensors").write_bytes(b"of a killed process")
    again = keras_spm.PVTv2.from_preset("b0")
    own = {variable.path: variable for variable in published.backbone.weights}
    assert all(difference(variable, own[variable.path]) == 0 for variable in again.weights)
    assert _converted(hub) == [kept] and sha256_of(kept) == kept.stem


def test_cache_that_is_not_writable(hub, published):
    hub.cache.parent.mkdir()
    (hub.cache.parent / "assets").write_text("a file, where a folder should be")
    with pytest.warns(UserWarning, match="Converted weights cannot be saved in .*assets"):
        backbone = keras_spm.PVTv2.from_preset("b0")
    own = {variable.path: variable for variable in published.backbone.weights}
    assert all(difference(variable, own[variable.path]) == 0 for variable in backbone.weights)


def test_sha256_of_a_card(hub, published, monkeypatch):
    card = dataclasses.replace(read_card("pvt_v2_b0"), revision=COMMIT, sha256="0" * 64)
    monkeypatch.setattr("keras_spm.presets.sources.read_card", lambda preset: card)
    with pytest.raises(DownloadError, match="is not the expected file"):
        keras_spm.PVTv2.from_preset("b0")
    weights = hub.repositories["timm/pvt_v2_b0.in1k"] / "model.safetensors"
    card = dataclasses.replace(card, sha256=sha256_of(weights))
    assert keras_spm.PVTv2.from_preset("b0").load_report.missing_keys == ()


def test_spm_loads_the_shared_layers(published):
    with pytest.warns(UserWarning, match="mergings of stage2, stage3, stage4 are randomly"):
        model = keras_spm.ImageClassifier.from_preset("pvt_v2_spm_b0", num_classes=1000)
    assert isinstance(model.backbone, keras_spm.PVTv2SPM)
    own = {variable.path: variable for variable in published.weights}
    for variable in model.weights:
        if "/merging/" in variable.path:
            assert variable.path in model.load_report.missing_keys
        else:
            assert difference(variable, own[variable.path]) == 0
    assert all("/merging/" in path for path in model.load_report.missing_keys)


def test_warning_has_the_line_of_the_caller(published):
    for load in (
        lambda: keras_spm.PVTv2SPM.from_preset("b0"),
        lambda: keras_spm.ObjectDetector.from_preset("pvt_v2_spm_b0", num_classes=2),
    ):
        with pytest.warns(UserWarning, match="are randomly initialized") as warned:
            load()
        lines = [
            (each.filename, each.lineno) for each in warned if "are randomly" in str(each.message)
        ]
        assert lines == [(__file__, load.__code__.co_firstlineno)]


def test_another_variant_at_the_address(hub, published):
    hub.repositories["timm/pvt_v2_b1.in1k"] = hub.repositories["timm/pvt_v2_b0.in1k"]
    with pytest.raises(keras_spm.weights.FormatError, match="another variant than 'b1'"):
        keras_spm.PVTv2.from_preset("b1")


@pytest.mark.parametrize("form", ["one file", "shards", "no classifier"])
def test_transformers_folders(hub, tmp_path, form):
    import transformers

    config = transformers.PvtV2Config(
        hidden_sizes=[8, 16, 40, 64],
        depths=[1, 1, 2, 1],
        mlp_ratios=[4, 4, 2, 2],
        id2label={0: "crane", 1: "heron", 2: "crane"},
    )
    theirs = transformers.PvtV2ForImageClassification(config)
    if form == "no classifier":
        theirs = theirs.base_model
    theirs.save_pretrained(
        tmp_path / "theirs", max_shard_size="100KB" if form == "shards" else "1GB"
    )
    assert (tmp_path / "theirs/model.safetensors").exists() == (form != "shards")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(processor))
    hub.repositories["them/pvt"] = tmp_path / "theirs"
    backbone = keras_spm.backbones.PyramidBackbone.from_preset("hf://them/pvt")
    assert type(backbone) is keras_spm.PVTv2 and backbone.embedding_norm_epsilon == 1e-6
    if form == "no classifier":
        model = keras_spm.ImageClassifier.from_preset("hf://them/pvt", num_classes=2)
        assert sorted(model.load_report.missing_keys) == ["head/bias", "head/kernel"]
    else:
        model = keras_spm.ImageClassifier.from_preset("hf://them/pvt")
        assert model.class_names == ["crane (0)", "heron", "crane (2)"]
        assert model.mean == (0.1, 0.2, 0.3)
        assert not model.load_report.missing_keys


# Faults. Those of the connection, the disk and the process are in tests/test_campaigns.py.

WHY = {
    "404": "has none of model.safetensors",
    "gated": "access is restricted",
    "private": "or it is private",
    "429": "429",
    "500": "500",
    "too long": "model.safetensors",
}


@pytest.mark.parametrize("fault", WHY)
@pytest.mark.filterwarnings("ignore")
def test_faults(hub, model, monkeypatch, fault):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # Between its attempts.
    hub.faults["model.safetensors"] = fault
    with pytest.raises(DownloadError, match=WHY[fault]) as caught:
        keras_spm.SwinSPM.from_preset("hf://owner/birds")
    assert "hf://owner/birds" in str(caught.value)
    assert all(path.suffix == ".incomplete" for path in _blobs(hub))
    hub.faults.clear()
    loaded = keras_spm.ImageClassifier.from_preset("hf://owner/birds")
    assert difference(_outputs(loaded), _outputs(model)) == 0


def test_unknown_addresses(hub, model):
    for address, message in (
        ("hf://owner/bards", "no such repository or revision"),
        ("hf://owner/birds@old", "no such repository or revision"),
    ):
        with pytest.raises(DownloadError, match=message):
            keras_spm.SwinSPM.from_preset(address)
    for address in ("hf://birds", "hf://owner/birds/model", "hf://../birds", "hf://owner/b@../x"):
        with pytest.raises((ValueError, DownloadError)):
            keras_spm.SwinSPM.from_preset(address)


def test_without_a_network(hub, model, monkeypatch):
    keras_spm.SwinSPM.from_preset("hf://owner/birds")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    loaded = keras_spm.ImageClassifier.from_preset("hf://owner/birds")  # From the cache.
    assert difference(_outputs(loaded), _outputs(model)) == 0
    with pytest.raises(DownloadError) as caught:
        keras_spm.PVTv2.from_preset("b1")
    assert len(hub.asked) == asked
    for part in ("config.json of hf://timm/pvt_v2_b1.in1k", str(hub.cache), "load_weights=False"):
        assert part in str(caught.value)


def test_damaged_cache(hub, model):
    keras_spm.SwinSPM.from_preset("hf://owner/birds")
    (weights,) = _blobs(hub)
    contents = bytearray(weights.read_bytes())
    contents[-5] ^= 1
    weights.write_bytes(contents)
    with pytest.raises(DownloadError, match="It was removed; try again"):
        keras_spm.SwinSPM.from_preset("hf://owner/birds")
    assert not _blobs(hub)
    keras_spm.SwinSPM.from_preset("hf://owner/birds")
