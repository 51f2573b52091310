"""Exported files compute what the model does, in their own runtimes."""

import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import cli, heads
from keras_spm.export import FORMATS, ExportError, files, run_exported, verification, verify
from tests import exported, golden
from tests.helpers import conv_backbone, randomize, tiny_backbone

BACKEND = keras.config.backend()
WRITTEN = [name for name, each in FORMATS.items() if BACKEND in each.writers]
# One that every backend has, and that is written fast.
USUAL = {"torch": "torch", "tensorflow": "onnx", "jax": "stablehlo"}[BACKEND]
SHAPES = ((1, 64, 64), (3, 33, 47))
EXAMPLE = pathlib.Path(__file__).parents[1] / "docs" / "serving" / "onnx_runtime.py"


def _classifier(**arguments):
    return randomize(keras_spm.ImageClassifier(tiny_backbone(), 3, exported.CLASSES, **arguments))


def _mask_rcnn():
    detector = heads.MaskRCNN(mask_head_channels=8, **exported.SMALL_RCNN)
    return golden.randomize_task(keras_spm.InstanceSegmenter(conv_backbone(), 3, detector))


# The campaign has one for each backbone and head.
TASKS = {
    "ImageClassifier": _classifier,
    "SemanticSegmenter": lambda: golden.randomize_task(
        keras_spm.SemanticSegmenter(conv_backbone(), 3, heads.SegFormerHead(channels=8))
    ),
    "ObjectDetector": golden.distinct_detector,
    "InstanceSegmenter": _mask_rcnn,
}


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs files here: a process for each would take longer than all the rest."""

    def run(filepath, format, batches):
        opened = run_exported.OPENERS[format](str(filepath))
        return [opened(batch) for batch in batches]

    monkeypatch.setattr(verification, "_run", run)


def _path(folder, name):
    return folder / f"model{FORMATS[name].suffix}"


_TASKS = [
    "ImageClassifier",
    *(pytest.param(name, marks=pytest.mark.release) for name in list(TASKS)[1:]),
]


@pytest.mark.parametrize("task", _TASKS)
def test_tasks(task, tmp_path, in_this_process):
    model, path = TASKS[task](), _path(tmp_path, USUAL)
    model.export(path, format=USUAL, verbose=False)
    assert verify(model, path, USUAL, shapes=SHAPES) <= 1e-4
    if USUAL == "torch" and task == "ImageClassifier":
        check_metadata(path)
    if isinstance(model, keras_spm.ObjectDetector):
        served = keras_spm.export.ServedModel(model)
        found = served(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), "uint8"))
        assert keras.ops.convert_to_numpy(found["scores"]).max() > 0.3  # Not only padding.


@pytest.mark.release
@pytest.mark.parametrize("name", [name for name in WRITTEN if name != USUAL])
def test_formats(name, tmp_path, in_this_process):
    model, path = _classifier(), _path(tmp_path, name)
    model.export(path, format=name, verbose=False)
    assert verify(model, path, name, shapes=SHAPES) <= 1e-4


@pytest.mark.release
@pytest.mark.only("tensorflow")
def test_instances_in_litert(tmp_path, in_this_process):
    """RoIAlign has arrays with two unknown sizes, of which LiteRT lacks some operations."""
    model, path = TASKS["InstanceSegmenter"](), _path(tmp_path, "litert")
    model.export(path, format="litert", verbose=False)
    assert verify(model, path, "litert", shapes=SHAPES) <= 1e-4


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in WRITTEN])
def test_other_backends_are_named(name, tmp_path):
    with pytest.raises(ValueError, match="Save the model as a .keras file and export it with K"):
        _classifier().export(_path(tmp_path, name), format=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.release
def test_raw_outputs_and_bytes(tmp_path, in_this_process):
    model, path = golden.distinct_detector(), _path(tmp_path, USUAL)
    signature = [keras.InputSpec(dtype="uint8", shape=(None, 64, 96, 3))]
    options = {"input_signature": signature, "raw_outputs": True}
    model.export(path, format=USUAL, verbose=False, **options)
    assert verify(model, path, USUAL, **options) <= 1e-4
    outputs = run_exported.OPENERS[USUAL](str(path))(np.zeros((2, 64, 96, 3), "uint8"))
    assert outputs["logits_P3"].shape == (2, 8 * 12 * 9, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onxx"}, "Unknown format 'onxx'. Did you mean 'onnx'?"),
        ({"format": USUAL, "filepath": "model.bin"}, "`filepath` must end in ."),
        ({"input_signature": [keras.InputSpec("uint8", (None, 8, 3))]}, "`input_signature` must"),
        ({"raw_outputs": 1}, "`raw_outputs` must be True or False"),
    ],
)
@pytest.mark.only("torch")
def test_invalid_arguments(tmp_path, arguments, message):
    path = tmp_path / arguments.pop("filepath", _path(tmp_path, USUAL).name)
    with pytest.raises(ValueError) as refused:
        _classifier().export(path, **{"format": USUAL, **arguments})
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.only("torch")
class TestFiles:
    def test_a_failed_export_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = _path(tmp_path, USUAL)
        path.write_text("old")

        def fail(request, temporary):
            temporary.write_text("half")
            temporary.with_suffix(".bin").write_text("half")
            raise RuntimeError("no such operation\nat node 3")

        monkeypatch.setitem(FORMATS[USUAL].writers, BACKEND, fail)
        with pytest.raises(ExportError, match=r"cannot be exported to 'torch': no such operation$"):
            _classifier().export(path, format=USUAL)
        assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]

    def test_companions_and_folders_are_replaced_as_a_whole(self, tmp_path):
        folder = tmp_path / "saved"
        for text in ("first", "second"):
            with files.atomic_export(tmp_path / "model.xml") as temporary:
                temporary.write_text(text)
                temporary.with_suffix(".bin").write_text(text)
            with files.atomic_export(folder) as temporary:
                temporary.mkdir()
                (temporary / "saved_model.pb").write_text(text)
        names = sorted(each.name for each in tmp_path.iterdir())
        assert names == ["model.bin", "model.xml", "saved"]
        assert (folder / "saved_model.pb").read_text() == "second"
        assert (tmp_path / "model.bin").read_text() == "second"

    def test_other_folders_are_kept(self, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/heron.jpg").touch()
        with pytest.raises(FileExistsError), files.atomic_export(tmp_path / "photos"):
            raise AssertionError
        with pytest.raises(FileNotFoundError), files.atomic_export(tmp_path / "a/b.onnx"):
            raise AssertionError


@pytest.mark.only("torch")
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "keras-spm\[export\]"'):
        _classifier().export(tmp_path / "model.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_half_precision_is_exported_in_float32():
    model = randomize(keras_spm.ImageClassifier(tiny_backbone(dtype="mixed_bfloat16"), 3))
    served = keras_spm.export.ServedModel(model)
    assert {layer.compute_dtype for layer in served.model._flatten_layers()} == {"float32"}
    images = np.zeros((1, 32, 32, 3), "float32")
    exact = _classifier()
    exact.set_weights(model.get_weights())
    expected = keras.ops.convert_to_numpy(exact(images))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(served(images)["logits"]), expected)
    assert model.dtype_policy.name == "mixed_bfloat16"


def check_metadata(path):
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(files.METADATA))
        metadata = json.loads(archive.read(name))
    assert metadata["class_names"] == exported.CLASSES
    assert (metadata["model"], metadata["backbone"]) == ("ImageClassifier", "PVTv2")
    assert metadata["outputs"] == ["logits"]
    assert metadata["input"]["shape"] == [None, None, None, 3]


@pytest.mark.only("torch")
def test_command_and_example_with_onnx_runtime(tmp_path, capsys):
    """From a saved model to the classes of a JPEG, without this package."""
    import onnx
    from PIL import Image

    preprocessing = keras_spm.data.ImagePreprocessing((48, 64), crop_pct=0.9)
    model = _classifier(preprocessing=preprocessing)
    model.save(tmp_path / "model.keras")
    target = tmp_path / "model.onnx"
    assert cli.main(["export", str(tmp_path / "model.keras"), str(target)]) == 0
    assert f"{target} written; largest difference " in capsys.readouterr().out

    loaded = onnx.load(target)
    assert {each.domain for each in loaded.opset_import} <= {"", "ai.onnx"}
    assert [each.name for each in loaded.graph.input] == ["images"]
    assert [each.name for each in loaded.graph.output] == ["logits"]

    photo = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 100, 3), "uint8")
    Image.fromarray(pixels).save(photo)
    command = [sys.executable, "-I", str(EXAMPLE), str(target), str(photo)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = (f"{name} {probability:.1%}" for name, probability in model.classify(photo))
    assert printed.strip() == "  ".join([str(photo), *expected])


@pytest.mark.only("torch")
def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch, capsys):
    _classifier().save(tmp_path / "model.keras")
    monkeypatch.setattr(verification, "verify", lambda *_, **__: float("nan"))
    monkeypatch.setitem(FORMATS["torch"].writers, "torch", lambda _, path: path.touch())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "model.keras", "model.pt2"]) == 2
    assert "differs by nan, more than the tolerance, 0.0001" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]
