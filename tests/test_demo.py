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
from keras_spm import cli, demo, trainer
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


def _png():
    Image.fromarray(IMAGE).save(file := io.BytesIO(), "PNG")
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


def test_refused_requests(port, monkeypatch):
    status, answer, _ = _request(port, "POST", "/predict/0", b"not an image")
    assert status == 400
    assert json.loads(answer) == {"detail": "The file cannot be read as an image: not an image"}
    assert _request(port, "POST", "/predict/3", _png())[0] == 404
    monkeypatch.setattr("keras_spm.demo.app.MAX_BYTES", 100)
    assert _request(port, "POST", "/predict/0", _png())[0] == 413
    assert _request(port, "GET", "/", host="evil.example")[0] == 400


def test_the_command(models, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "load_task", lambda name: models["segmenter"])
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    assert cli.main(["demo", "a.keras", "b.keras", "--port", "0"]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert cli.main(["demo", "a.keras", "--port", "70000"]) == 2
    assert "`port` must be an integer from 0 to 65535" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`models` must have at least one task"):
        demo.demo_app({})
