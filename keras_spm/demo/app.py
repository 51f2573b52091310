"""The server of the page: one process, this machine only, nothing is stored."""

import asyncio
import base64
import contextlib
import json
import pathlib
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_spm.arguments import check_integer
from keras_spm.data.images import EncodedImage, image_size, read_image
from keras_spm.data.transforms import resize
from keras_spm.tasks.graph import channels_of
from keras_spm.tasks.image_task import ImageTask
from keras_spm.types import PathLike
from keras_spm.visualize import grad_cam

HOST = "127.0.0.1"
MAX_BYTES = 2**25  # Of an image file.
# Pixels of the longer side. The prediction for a large photo can take minutes and gigabytes, and
# so can its pictures.
MAX_SIDE = 2048
_PAGE = pathlib.Path(__file__).parent / "page.html"
_HEADERS = {
    # Nothing is loaded from other servers.
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data: blob:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'"
}


def demo_app(models: Mapping[str, ImageTask]) -> Any:
    """Returns the ASGI application of the page.

    `GET /` is the page. `POST /predict/N`, with the bytes of an image file as the body, returns
    the prediction of the Nth model as JSON: `size`, the height and width of the image, shrunk to at
    most 2048 pixels; `record` and `text` as of the model's `predict_record` for it; and `pictures`,
    a list of `title` and `source`, a PNG as a data URL. Errors have the key `detail`.

    Args:
        models: {name: task}, shown in this order.

    Raises:
        ValueError: if there is no model.
    """
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    if not models:
        raise ValueError("`models` must have at least one task. Received: models={}")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # A page of another site cannot reach this one under a name of its own.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    tasks = list(models.values())
    lock = threading.Lock()

    def locked_prediction(model, content):
        with lock:  # One image in memory at a time.
            return predict(model, content)

    @app.get("/")
    async def page() -> HTMLResponse:
        # "<" could end the script of the page.
        text = json.dumps([_description(*each) for each in models.items()]).replace("<", "\\u003c")
        html = _PAGE.read_text(encoding="utf-8").replace("/* MODELS */[]", text)
        return HTMLResponse(html, headers=_HEADERS)

    @app.post("/predict/{number}")
    async def predict_image(number: int, request: Request) -> dict:
        if not 0 <= number < len(tasks):
            raise HTTPException(404, f"There is no model {number}.")
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BYTES:
                raise HTTPException(413, f"The image must have at most {MAX_BYTES} bytes.")
        try:
            return await asyncio.to_thread(locked_prediction, tasks[number], bytes(content))
        except ValueError as error:  # Not an image, or one that the model refuses.
            raise HTTPException(400, str(error)) from None

    return app


def serve(models: Mapping[str, ImageTask], port: int = 8000) -> None:
    """Serves the page until Ctrl-C.

    Args:
        models: as in `demo_app`.
        port: int from 0 to 65535, of this machine; 0 chooses a free one.

    Raises:
        OSError: if the port is in use.
        ValueError: if the port is out of range.
    """
    import socket

    import uvicorn

    check_integer("port", port, 0, 65535)
    app = demo_app(models)
    # Bound here: uvicorn exits the process if it cannot.
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        print(f"http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def predict(model: ImageTask, content: bytes, top: int = 5, score_threshold: float = 0.3) -> dict:
    """Returns the prediction for the bytes of an image file, as `demo_app` sends it.

    An image whose longer side has more than `MAX_SIDE` pixels is shrunk first.

    Args:
        model: task.
        content: of an image file.
        top: int, number of classes.
        score_threshold: float, lowest score of objects.

    Raises:
        ValueError: if the content is not an image, or the model refuses it.
    """
    file = EncodedImage(content, "The file")
    image = _read(file, channels_of(model.backbone))
    (prediction,) = model.predict_images([image])
    record, text = model.predict_record(prediction, image, top, score_threshold)
    pictures = []
    if "classes" not in record:  # The page draws their probabilities.
        pictures.append(
            _picture("prediction", lambda path: model.draw([image], path, predictions=[prediction]))
        )
    with contextlib.suppress(ValueError):  # Of tasks and backbones that it does not explain.
        pictures.append(_picture("Grad-CAM", lambda path: grad_cam(model, image, path=path)))
    return {"size": image.shape[:2], "record": record, "text": text, "pictures": pictures}


def _read(file, channels):
    """Returns (height, width, channels) uint8."""
    height, width = image_size(file)
    scale = min(1, MAX_SIDE / max(height, width))
    image = read_image(file, min_scale=scale, channels=channels)
    if scale < 1:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return resize({"image": image}, size)["image"]
    return np.asarray(image)


def _description(name, model):
    return {"name": name, "task": type(model).__name__, "backbone": type(model.backbone).__name__}


def _picture(title: str, draw: Callable[[PathLike], Any]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "picture.png")
        draw(path)
        content = base64.b64encode(path.read_bytes()).decode()
    return {"title": title, "source": f"data:image/png;base64,{content}"}
