"""Models saved to a folder and loaded from it, with nothing but its path."""

import json
import pathlib

import keras
import pytest

import keras_spm
from keras_spm.weights import FormatError
from keras_spm.weights import MismatchError
from tests import golden
from tests.helpers import difference
from tests.helpers import randomize
from tests.helpers import to_numpy

# Written by version 0.1.0; every later one must read them.
KEPT = pathlib.Path(__file__).parent / "presets"


def _values(model):
    return {variable.path: to_numpy(variable) for variable in model.weights}


def test_a_folder_loads_at_other_sizes(tmp_path):
    """As with other layouts: embeddings and tables are resized, what has no place is left."""
    pvt = randomize(golden.backbone("pvt"))
    pvt.save_to_preset(tmp_path / "pvt")
    dense = keras_spm.PVT.from_preset(tmp_path / "pvt", class_token=False)
    assert dense.load_report.unexpected_keys == (
        *("norm/beta", "norm/gamma", "stage4/class_position", "stage4/class_token"),
    )
    reference = golden.backbone("pvt", pretrain_image_size=(96, 64))
    keras_spm.load_torch_weights(reference, keras_spm.to_torch_state_dict(pvt))
    larger = keras_spm.PVT.from_preset(tmp_path / "pvt", pretrain_image_size=(96, 64))
    assert len(larger.load_report.resized) == 4
    assert _same(larger, reference)
    swin = randomize(golden.backbone("official_swin"))
    swin.save_to_preset(tmp_path / "swin")
    reference = golden.backbone("official_swin", window_size=6)
    keras_spm.load_torch_weights(reference, keras_spm.to_torch_state_dict(swin))
    larger = keras_spm.Swin.from_preset(tmp_path / "swin", window_size=6)
    assert _same(larger, reference) and larger.load_report.resized


def test_a_damaged_folder_is_refused(tmp_path):
    backbone = randomize(golden.backbone("pvt_v2"))
    backbone.save_to_preset(tmp_path / "saved")
    path = tmp_path / "saved/model.safetensors"
    contents = bytearray(path.read_bytes())
    contents[-5] ^= 1
    path.write_bytes(contents)
    with pytest.raises(FormatError, match=r"model\.safetensors is damaged.* sha256"):
        keras_spm.PVTv2.from_preset(tmp_path / "saved")


def _same(left, right):
    left, right = _values(left), _values(right)
    return left.keys() == right.keys() and all((left[path] == right[path]).all() for path in left)


@pytest.mark.parametrize("name", ["pvt", "pvt_spm", "pvt_v2_li", "pvt_v2_spm", "official_swin"])
def test_a_backbone_comes_back(tmp_path, name):
    backbone = randomize(golden.backbone(name, drop_path_rate=0.1, dtype="mixed_bfloat16"))
    backbone.freeze(2)
    backbone.save_to_preset(tmp_path / "saved")
    again = type(backbone).from_preset(tmp_path / "saved")
    assert _same(again, backbone)
    assert again.dtype_policy.name == "mixed_bfloat16" and again.frozen_stages == 2
    assert not again.load_report.missing_keys and not again.load_report.unexpected_keys
    fresh = type(backbone).from_preset(tmp_path / "saved", load_weights=False, drop_path_rate=0.0)
    assert fresh.drop_path_rate == 0 and not _same(fresh, backbone)


def test_a_task_comes_back_with_its_names_and_normalization(tmp_path):
    model = keras_spm.ImageClassifier(
        golden.backbone("pvt_v2_spm"),
        3,
        class_names=["heron", "crane", "ibis"],
        activation="softmax",
        mean=(0.1, 0.2, 0.3),
        preprocessing=keras_spm.data.ImagePreprocessing((64, 48), 0.9, "bilinear"),
    )
    randomize(model).save_to_preset(tmp_path / "birds")
    config = json.loads((tmp_path / "birds/config.json").read_text())
    assert config["version"] == keras_spm.__version__
    again = keras_spm.ImageClassifier.from_preset(tmp_path / "birds")
    assert _same(again, model)
    assert again.class_names == model.class_names and again.mean == model.mean
    assert again.preprocessing.get_config() == model.preprocessing.get_config()
    other = keras_spm.ImageClassifier.from_preset(tmp_path / "birds", num_classes=5)
    assert other.class_names is None and sorted(other.load_report.missing_keys) == [
        *("head/bias", "head/kernel")
    ]
    backbone = keras_spm.PVTv2SPM.from_preset(tmp_path / "birds")
    assert sorted(backbone.load_report.unexpected_keys) == ["head/bias", "head/kernel"]
    assert _same(backbone, model.backbone)


@pytest.mark.parametrize("path", sorted(KEPT.iterdir()), ids=lambda path: path.name)
def test_what_older_versions_wrote_is_read(path):
    if path.suffix == ".keras":
        model = keras.saving.load_model(path)
    elif path.name.startswith("backbone"):
        model = keras_spm.backbones.PyramidBackbone.from_preset(path)
    else:
        model = keras_spm.ImageClassifier.from_preset(path)
    if path.name.startswith("task"):
        assert model.class_names == ["a", "b", "c"]
        assert model.preprocessing.image_size == (64, 48)
    # They were written with these values.
    assert _same(randomize(type(model).from_config(model.get_config()), seed=5), model)


def test_what_is_there_is_not_overwritten(tmp_path):
    backbone = golden.backbone("pvt_v2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/diary.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="full exists already"):
        backbone.save_to_preset(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    backbone.save_to_preset(tmp_path / "empty")
    backbone.save_to_preset(tmp_path / "made/on/the/way")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty", "made"}
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["diary.txt"]


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_spm.presets.saving.write_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def _edited(**changes):
    def edit(config):
        config.update(changes)

    return edit


def _backbone(**changes):
    def edit(config):
        config["backbone"]["config"].update(changes)

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (_edited(format="other"), FormatError, "is not a configuration of keras_spm"),
        (_edited(backbone={"class": "PVTv2"}), FormatError, "incomplete: KeyError 'config'"),
        (_edited(backbone=[]), FormatError, "incomplete: TypeError"),
        (
            _edited(backbone={"class": "os.system", "config": {}}),
            ValueError,
            "Unknown backbone class 'os.system'",
        ),
        (_backbone(color="red"), FormatError, "cannot be built: .*color"),
        (_backbone(depths=[1, 1, 1, 1]), MismatchError, "unexpected: stage3/block2"),
        (_backbone(depths=[1, 1]), ValueError, "depths"),
        (_edited(format=None, model_type="vit"), FormatError, "model_type 'vit' is none of pvt"),
        (_edited(format=None, architecture="vit"), FormatError, "architecture 'vit'"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, edit, error, message):
    golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    path = tmp_path / "saved/config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        keras_spm.PVTv2.from_preset(tmp_path / "saved")


def test_a_folder_of_another_family_is_refused(tmp_path):
    golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    with pytest.raises(ValueError, match="holds a PVTv2, not a Swin"):
        keras_spm.Swin.from_preset(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        keras_spm.Swin.from_preset(tmp_path)
    (tmp_path / "saved/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        keras_spm.PVTv2.from_preset(tmp_path / "saved")


def test_mergings_that_a_folder_lacks_stay_fresh(tmp_path):
    backbone = randomize(golden.backbone("official_swin"))
    backbone.save_to_preset(tmp_path / "swin")
    with pytest.warns(UserWarning, match="filled from those of Swin; fresh are the mergings"):
        spm = keras_spm.SwinSPM.from_preset(tmp_path / "swin")
    shared = {path: value for path, value in _values(spm).items() if "/merging/" not in path}
    own = _values(backbone)
    assert all((own[path] == value).all() for path, value in shared.items())
    for variable in spm.weights:
        if "/merging/" in variable.path and variable.path.endswith("gamma"):
            assert difference(variable, 1) == 0
