"""The example of a server, under load."""

import concurrent.futures
import contextlib
import http.client
import importlib
import io
import json
import pathlib
import time

import numpy as np
import pytest
from PIL import Image

import keras_spm
from tests.app_server import served
from tests.helpers import randomize, tiny_backbone

pytestmark = pytest.mark.only("torch")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "serving"
REQUESTS, CLIENTS = 500, 16


@pytest.fixture(scope="module")
def classifier():
    return randomize(
        keras_spm.ImageClassifier(
            tiny_backbone(),
            7,
            class_names=list("abcdefg"),
            preprocessing=keras_spm.data.ImagePreprocessing((32, 32)),
        )
    )


@pytest.fixture(scope="module")
def port(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    classifier.save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL", str(path))
        patch.syspath_prepend(str(FOLDER))
        app = importlib.import_module("fastapi_app").app
        with served(app) as found:
            yield found


def _post(port, body):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request("POST", "/classify", body)
        response = client.getresponse()
        return response.status, json.loads(response.read())


def _jpeg(seed):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(20, 60, 2)
    # Smooth, as photos are.
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype="uint8"))
    file = io.BytesIO()
    small.resize((int(width), int(height))).save(file, "JPEG")
    return file.getvalue()


def test_requests_of_many_clients(port, classifier):
    """Every client gets the answer to its own image."""
    bodies = [_jpeg(seed) for seed in range(20)]
    images = [Image.open(io.BytesIO(body)) for body in bodies]
    expected = [dict(classes) for classes in classifier.classify(images)]
    assert len({tuple(classes.values()) for classes in expected}) == len(bodies)

    def request(number):
        start = time.perf_counter()
        status, answer = _post(port, bodies[number % len(bodies)])
        assert status == 200
        assert dict(answer) == pytest.approx(expected[number % len(bodies)], abs=1e-5)
        return time.perf_counter() - start

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        seconds = list(pool.map(request, range(REQUESTS)))
    rate = REQUESTS / (time.perf_counter() - start)
    median, slow = np.percentile(seconds, [50, 99]) * 1000
    print(f"{CLIENTS} clients: {rate:.0f} requests/s, median {median:.0f} ms, p99 {slow:.0f} ms")


def test_invalid_requests(port):
    assert _post(port, b"not an image") == (400, {"detail": "The body is not an image."})
    for body in (b"", bytes(2**24 + 1)):
        assert _post(port, body) == (413, {"detail": "The image must have 1 to 16777216 bytes."})
