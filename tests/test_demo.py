"""The local page of `keras-spm demo`, over HTTP."""

import base64
import contextlib
import http.client
import io
import json

import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm import cli, demo
from tests.app_server import served
from tests.helpers import conv_backbone, randomize, tiny_backbone

pytestmark = pytest.mark.only("torch")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), "uint8")


@pytest.fixture(scope="module")
def models():
    heads = keras_spm.heads
    classifier = keras_spm.ImageClassifier(
        tiny_backbone(), 3, class_names=["</script>", "stork", "crane"]
    )
    decoder = heads.SemanticFPN(pyramid_channels=8, channels=8)
    head = heads.MaskRCNN(
        pyramid_channels=8, rpn_channels=8, box_head_channels=8, mask_head_channels=8,
        max_proposals=8, score_threshold=0.0, max_detections=4,
    )  # fmt: skip
    return {
        "birds <b>": randomize(classifier),
        "segmenter": randomize(keras_spm.SemanticSegmenter(tiny_backbone(), 4, decoder)),
        "instances": randomize(keras_spm.InstanceSegmenter(conv_backbone(), 2, head)),
    }


@pytest.fixture(scope="module")
def port(models):
    with served(demo.demo_app(models)) as found:
        yield found


def _request(port, method, path, body=None, host="localhost"):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request(method, path, body, {"Host": host})
        response = client.getresponse()
        return response.status, response.read().decode(), response.headers


def _png(image=IMAGE, mode=None):
    Image.fromarray(image).convert(mode).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _size(picture):
    assert picture["source"].startswith("data:image/png;base64,")
    content = base64.b64decode(picture["source"].partition(",")[2])
    return Image.open(io.BytesIO(content)).size


def test_the_page_lists_the_models(port, models):
    status, page, headers = _request(port, "GET", "/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert page.count("</script>") == 1 and "default-src 'none'" in headers[
        "content-security-policy"
    ]  # fmt: skip
    (line,) = (line for line in page.splitlines() if line.startswith("const models = "))
    listed = json.loads(line.removeprefix("const models = ").removesuffix(";"))
    assert [each["name"] for each in listed] == list(models)
    assert listed[0] == {
        "name": "birds <b>", "task": "ImageClassifier", "backbone": "PVTv2"
    }  # fmt: skip


def test_predictions_of_every_task(port, models):
    for number, model in enumerate(models.values()):
        status, answer, _ = _request(port, "POST", f"/predict/{number}", _png())
        assert status == 200, answer
        answer = json.loads(answer)
        (prediction,) = model.predict_images([IMAGE])
        record, text = model.predict_record(prediction, IMAGE)
        assert answer["record"] == json.loads(json.dumps(record))
        assert answer["text"] == text
        titles = [picture["title"] for picture in answer["pictures"]]
        assert titles == [["Grad-CAM"], ["prediction", "Grad-CAM"], ["prediction"]][number]
        if "Grad-CAM" in titles:
            assert _size(answer["pictures"][-1]) == (64, 48)
        else:
            assert min(_size(answer["pictures"][0])) > 200


@pytest.fixture(scope="module")
def models_of_one_size():
    """Without preprocessing or batching; the segmenter has gray images."""
    decoder = keras_spm.heads.SemanticFPN(pyramid_channels=8, channels=8)
    detector = keras_spm.heads.RetinaNet(pyramid_channels=8, channels=8, num_convs=1)
    rgb, gray = {"image_shape": (32, 32, 3)}, {"image_shape": (32, 32, 1)}
    return [
        randomize(keras_spm.ImageClassifier(tiny_backbone(**rgb), 3)),
        randomize(keras_spm.SemanticSegmenter(tiny_backbone(**gray), 4, decoder)),
        randomize(keras_spm.ObjectDetector(tiny_backbone(**rgb), 2, detector)),
    ]


@pytest.mark.parametrize(
    "content",
    [
        _png(mode="LA"),
        _png(mode="RGBA"),
        _png(IMAGE[:1, :1]),
        _png(np.tile(IMAGE, (1, 8, 1))),  # It is shrunk.
    ],
    ids=["gray with alpha", "RGBA", "one pixel", "large"],
)
def test_images_of_every_kind_and_size(models, models_of_one_size, content, monkeypatch):
    monkeypatch.setattr("keras_spm.demo.app.MAX_SIDE", 128)
    with Image.open(io.BytesIO(content)) as image:
        size = (12, 128) if image.width > 128 else (image.height, image.width)
    for model in (models["instances"], *models_of_one_size):
        answer = demo.app.predict(model, content)
        assert answer["size"] == size and answer["pictures"]
        classes = answer["record"].get("classes", ())
        assert np.isfinite([each["probability"] for each in classes]).all()


def test_images_that_a_backbone_cannot_compute():
    """One line that says what to do, and nothing of Keras's trace of layers."""
    model = keras_spm.ImageClassifier(keras_spm.PVTv2.from_preset("mini", load_weights=False), 2)
    assert demo.app.predict(model, _png(IMAGE[:13, :13]))["pictures"]
    with pytest.raises(ValueError, match=r"^Images must be at least 13 pixels.*: \(12, 64\)$"):
        demo.app.predict(model, _png(IMAGE[:12]))
    decoder = keras_spm.heads.SemanticFPN(pyramid_channels=8, channels=8)
    backbone = tiny_backbone(image_shape=(32, 64, 3))
    with pytest.raises(ValueError, match=r"height and width \(32, 64\).*: \(64, 64\)$"):
        demo.app.predict(keras_spm.SemanticSegmenter(backbone, 4, decoder), _png())


def test_refused_requests(port, monkeypatch):
    status, answer, _ = _request(port, "POST", "/predict/0", b"not an image")
    assert status == 400
    assert json.loads(answer) == {"detail": "The file cannot be read as an image: not an image"}
    assert _request(port, "POST", "/predict/3", _png())[0] == 404
    monkeypatch.setattr("keras_spm.demo.app.MAX_BYTES", 100)
    assert _request(port, "POST", "/predict/0", _png())[0] == 413
    assert _request(port, "GET", "/", host="evil.example")[0] == 400


def test_the_command(models, tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    monkeypatch.setattr(demo.app, "demo_app", served.append)
    segmenter, run = models["segmenter"], tmp_path / "run"
    run.mkdir()
    segmenter.save(run / "best.keras")
    segmenter.save_to_preset(tmp_path / "preset")
    names = [str(tmp_path / "preset"), str(run), str(run / "best.keras")]
    assert cli.main(["demo", *names, "--port", "0"]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert list(served[0]) == names
    expected = segmenter.predict_images([IMAGE])
    for loaded in served[0].values():
        np.testing.assert_array_equal(loaded.predict_images([IMAGE]), expected)
    assert cli.main(["demo", str(run), "--port", "70000"]) == 2
    assert "`port` must be an integer from 0 to 65535" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`models` must have at least one task"):
        demo.demo_app({})
