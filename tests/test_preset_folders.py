"""Saving models to folders and loading them by their path."""

import concurrent.futures
import json
import pathlib
import threading

import keras
import pytest

import keras_spm
from keras_spm.backbones import PVTv2, PyramidBackbone
from keras_spm.presets import saving
from keras_spm.registry import HEADS
from keras_spm.tasks.image_task import ImageTask
from keras_spm.weights import FormatError, MismatchError
from tests import golden
from tests.helpers import difference, randomize, to_numpy

# Written by version 0.1.0; later versions must read them.
SAVED = pathlib.Path(__file__).parent / "presets"


def _values(model):
    return {variable.path: to_numpy(variable) for variable in model.weights}


def test_loading_at_another_size(tmp_path):
    """Embeddings and tables are resized, and tensors that the model lacks are ignored."""
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


@pytest.mark.only("torch")
def test_damaged_weights(tmp_path):
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
def test_backbone_round_trip(tmp_path, name):
    backbone = randomize(golden.backbone(name, drop_path_rate=0.1, dtype="mixed_bfloat16"))
    backbone.freeze(2)
    backbone.save_to_preset(tmp_path / "saved")
    again = type(backbone).from_preset(tmp_path / "saved")
    assert _same(again, backbone)
    assert again.dtype_policy.name == "mixed_bfloat16" and again.frozen_stages == 2
    assert not again.load_report.missing_keys and not again.load_report.unexpected_keys
    other = type(backbone).from_preset(tmp_path / "saved", load_weights=False, drop_path_rate=0.0)
    assert other.drop_path_rate == 0 and not _same(other, backbone)


def test_task_round_trip(tmp_path):
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


@pytest.mark.parametrize("path", sorted(SAVED.iterdir()), ids=lambda path: path.name)
def test_saved_presets_load(path):
    if path.suffix == ".keras":
        model = keras.saving.load_model(path)
    elif path.name.startswith("backbone"):
        model = PyramidBackbone.from_preset(path)
    else:
        model = keras_spm.ImageClassifier.from_preset(path)
    if path.name.startswith("task"):
        assert model.class_names == ["a", "b", "c"]
        assert model.preprocessing.image_size == (64, 48)
    # The values that they were saved with.
    assert _same(randomize(type(model).from_config(model.get_config()), seed=5), model)


@pytest.mark.only("torch")
def test_existing_folder_is_not_overwritten(tmp_path):
    backbone = golden.backbone("pvt_v2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/diary.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="full already exists"):
        backbone.save_to_preset(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    backbone.save_to_preset(tmp_path / "empty")
    backbone.save_to_preset(tmp_path / "made/on/the/way")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty", "made"}
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["diary.txt"]


@pytest.mark.only("torch")
def test_one_of_several_threads_saves_the_folder(tmp_path, monkeypatch):
    backbone, together = golden.backbone("pvt_v2"), threading.Barrier(4)
    write = saving.write_safetensors

    def write_together(path, arrays):
        together.wait(30)  # Until all of them have found no folder.
        write(path, arrays)

    monkeypatch.setattr(saving, "write_safetensors", write_together)
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        saves = [executor.submit(backbone.save_to_preset, tmp_path / "saved") for _ in range(4)]
    errors = [save.exception() for save in saves if save.exception() is not None]
    assert [type(error) for error in errors] == [FileExistsError] * 3
    assert all("saved already exists and is not an empty" in str(error) for error in errors)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert _same(PVTv2.from_preset(tmp_path / "saved"), backbone)


@pytest.mark.only("torch")
def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_spm.presets.saving.write_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


class Bottleneck(keras_spm.ImageClassifier):
    """A user's task with an own layer, which is an argument."""

    head_argument = "reduction"

    def __init__(self, backbone, num_classes, reduction, **kwargs):
        super().__init__(backbone, num_classes, **kwargs)
        self.reduction = reduction
        self.reduction.build((None, num_classes))


class Reduction(keras.layers.Layer):
    """A user's head."""

    def __init__(self, units, name="reduction", **kwargs):
        super().__init__(name=name, **kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], self.units))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


HEADS.register("reduction", Reduction)


@pytest.mark.only("torch")
def test_user_backbone(tmp_path):
    class LargerPVTv2(PVTv2):
        """A user's family with its own presets, but without layouts or cards."""

        presets = {"small": {**PVTv2.presets["mini"], "depths": (1, 2, 1, 1)}}
        preset_prefix = "larger_"

    assert "larger_small" in keras_spm.list_presets()
    backbone = randomize(PyramidBackbone.from_preset("larger_small", load_weights=False))
    assert type(backbone) is LargerPVTv2 and backbone.depths == (1, 2, 1, 1)
    with pytest.raises(ValueError, match="No weights are published for LargerPVTv2"):
        LargerPVTv2.from_preset("small")
    backbone.save_to_preset(tmp_path / "saved")
    for cls in (LargerPVTv2, PVTv2, PyramidBackbone):
        loaded = cls.from_preset(tmp_path / "saved")
        assert type(loaded) is LargerPVTv2 and _same(loaded, backbone)
    # The layouts of the parent class.
    state = keras_spm.to_torch_state_dict(backbone, "timm")
    assert not keras_spm.load_torch_weights(randomize(backbone, seed=1), state).missing_keys


@pytest.mark.only("torch")
@pytest.mark.parametrize("head", ["own", "of the caller"])
def test_user_task(tmp_path, head):
    model = randomize(Bottleneck(golden.backbone("pvt_v2_spm"), 4, Reduction(5)))
    model.save_to_preset(tmp_path / "saved")
    task = json.loads((tmp_path / "saved/config.json").read_text())["task"]
    assert task["class"] == "Bottleneck" and task["layers"] == ["head", "reduction"]
    assert task["config"]["reduction"]["class"] == "reduction"
    for cls in (Bottleneck, keras_spm.ImageClassifier, ImageTask):
        arguments = {"reduction": Reduction(5)} if head == "of the caller" else {}
        loaded = cls.from_preset(tmp_path / "saved", **arguments)
        assert type(loaded) is Bottleneck and loaded.reduction.units == 5
        assert _same(loaded, model)
    backbone = keras_spm.PVTv2SPM.from_preset(tmp_path / "saved")
    assert _same(backbone, model.backbone)
    assert len(backbone.load_report.unexpected_keys) == 3
    segmenter = keras_spm.SemanticSegmenter.from_preset(tmp_path / "saved", num_classes=4)
    assert _same(segmenter.backbone, model.backbone)


@pytest.mark.only("torch")
def test_unknown_classes(tmp_path):
    golden.classifier("pvt_v2").save_to_preset(tmp_path / "saved")
    path = tmp_path / "saved/config.json"
    path.write_text(path.read_text().replace("ImageClassifier", "ImageClasifier"))
    with pytest.raises(FormatError, match="Did you mean 'ImageClassifier'"):
        keras_spm.ImageClassifier.from_preset(tmp_path / "saved")


def _edited(**changes):
    def edit(config):
        config.update(changes)

    return edit


def _backbone(**changes):
    def edit(config):
        config["backbone"]["config"].update(changes)

    return edit


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (_edited(format="other"), FormatError, "not a configuration of keras_spm"),
        (
            _edited(backbone={"class": "PVTv2"}),
            FormatError,
            "incomplete or invalid: KeyError 'config'",
        ),
        (_edited(backbone=[]), FormatError, "incomplete or invalid: TypeError"),
        (
            _edited(backbone={"class": "os.system", "config": {}}),
            ValueError,
            "Unknown backbone class 'os.system'",
        ),
        (_backbone(color="red"), FormatError, "cannot be built: .*color"),
        (_backbone(depths=[1, 1, 1, 1]), MismatchError, "unexpected: stage3/block2"),
        (_backbone(depths=[1, 1]), ValueError, "depths"),
        (_edited(format=None, model_type="vit"), FormatError, "`model_type` 'vit' is none of pvt"),
        (_edited(format=None, architecture="vit"), FormatError, "`architecture` 'vit'"),
    ],
)
def test_invalid_configuration(tmp_path, edit, error, message):
    golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    path = tmp_path / "saved/config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        keras_spm.PVTv2.from_preset(tmp_path / "saved")


@pytest.mark.only("torch")
def test_wrong_family(tmp_path):
    golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    with pytest.raises(ValueError, match="has a PVTv2, not a Swin"):
        keras_spm.Swin.from_preset(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        keras_spm.Swin.from_preset(tmp_path)
    (tmp_path / "saved/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has none of model.safetensors"):
        keras_spm.PVTv2.from_preset(tmp_path / "saved")


def test_missing_mergings_are_randomly_initialized(tmp_path):
    backbone = randomize(golden.backbone("official_swin"))
    backbone.save_to_preset(tmp_path / "swin")
    with pytest.warns(UserWarning, match="loaded from Swin; the mergings of .* randomly"):
        spm = keras_spm.SwinSPM.from_preset(tmp_path / "swin")
    shared = {path: value for path, value in _values(spm).items() if "/merging/" not in path}
    own = _values(backbone)
    assert all((own[path] == value).all() for path, value in shared.items())
    for variable in spm.weights:
        if "/merging/" in variable.path and variable.path.endswith("gamma"):
            assert difference(variable, 1) == 0
