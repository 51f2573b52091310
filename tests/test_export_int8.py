"""Static int8 of exported files, in their own runtimes."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm import cli
from keras_spm.export import FORMATS, run_exported
from tests.exported import CLASSES
from tests.helpers import randomize, tiny_backbone

BACKEND = keras.config.backend()


def _classifier(**arguments):
    return randomize(keras_spm.ImageClassifier(tiny_backbone(), 3, CLASSES, **arguments))


def _images(count, size=64):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), "uint8")


def _check(model, path, name, images):
    """Checks that the outputs of a file are near those of the model."""
    model.export(path, format=name, verbose=False, calibration=images)
    expected = model.predict_on_batch(images)
    logits = run_exported.OPENERS[name](str(path))(images.astype("float32"))["logits"]
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.only("torch")
def test_onnx(tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    _check(_classifier(), path, "onnx", _images(4))
    model = onnx.load(path)
    assert {each.domain for each in model.opset_import} <= {"", "ai.onnx"}
    onnx.checker.check_model(model, full_check=True)
    weights = {each.name: each for each in model.graph.initializer}
    large = [each for each in weights.values() if np.prod(each.dims) > 256]
    assert large and {each.data_type for each in large} == {onnx.TensorProto.INT8}
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["quantization"] == "int8" and metadata["class_names"] == '["a", "b", "c"]'


@pytest.mark.release
@pytest.mark.only("tensorflow")
def test_litert(tmp_path):
    _check(_classifier(), tmp_path / "model.tflite", "litert", _images(4))


@pytest.mark.only("torch")
def test_command(tmp_path, capsys):
    preprocessing = keras_spm.data.ImagePreprocessing((64, 64), crop_pct=0.9)
    _classifier(preprocessing=preprocessing).save(tmp_path / "model.keras")
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(_images(5, 80)):
        Image.fromarray(image).save(tmp_path / f"photos/{number}.png")
    target = tmp_path / "model.onnx"
    command = ["export", str(tmp_path / "model.keras"), str(target)]
    assert cli.main([*command, "--int8", "--calibration", str(tmp_path / "photos")]) == 0
    printed = capsys.readouterr().out
    assert f"{target} written in int8; same class as in float32: " in printed
    assert cli.main([*command, "--int8"]) == 2
    assert "`--int8` and `--calibration` must be given together" in capsys.readouterr().err


_OTHERS = [name for name, each in FORMATS.items() if BACKEND in each.writers and not each.has_int8]


@pytest.mark.parametrize("name", _OTHERS)
def test_other_formats_are_refused(name, tmp_path):
    path = tmp_path / f"model{FORMATS[name].suffix}"
    with pytest.raises(ValueError, match="needs one of the formats 'onnx', 'openvino', 'litert'"):
        _classifier().export(path, format=name, calibration=_images(1))
    assert not list(tmp_path.iterdir())


@pytest.mark.only("torch")
def test_calibration_images(tmp_path):
    model = _classifier()
    assert len(model.calibration_batches(np.zeros((1200, 32, 32, 3), "uint8"))) == 400
    backbone = tiny_backbone()
    assert backbone.calibration_batches([np.zeros((40, 32, 3))])[0].shape == (1, 40, 32, 3)
    with pytest.raises(ValueError, match="`calibration` must be at least one image"):
        model.calibration_batches([])
    with pytest.raises(ValueError, match="contains no images"):
        model.calibration_batches(str(tmp_path))
