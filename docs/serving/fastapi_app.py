"""Serves a classifier over HTTP. Requests that arrive during a batch are the next batch.

MODEL=birds.keras uvicorn --app-dir docs/serving fastapi_app:app; then POST images to /classify.
"""

import asyncio
import contextlib
import io
import os

import keras
from fastapi import FastAPI, HTTPException, Request
from PIL import Image

import keras_spm

MAX_BATCH, MAX_BYTES = 16, 2**24


async def run_batches(model: keras.Model, queue: asyncio.Queue) -> None:
    while True:
        batch = [await queue.get()]
        while len(batch) < MAX_BATCH and not queue.empty():
            batch.append(queue.get_nowait())
        images = [image for image, _ in batch]
        # Few sizes of batches, because a program is compiled for each.
        images += images[-1:] * (2 ** (len(images) - 1).bit_length() - len(images))
        work = asyncio.to_thread(model.classify, images)
        (results,) = await asyncio.gather(work, return_exceptions=True)
        for number, (_, future) in enumerate(batch):
            if not future.done():  # Otherwise the client is gone.
                future.set_result(results if isinstance(results, Exception) else results[number])


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):  # noqa: ANN201
    model = keras.saving.load_model(os.environ["MODEL"])
    model.preprocessing = model.preprocessing or keras_spm.data.ImagePreprocessing((224, 224))
    app.state.queue = asyncio.Queue()
    app.state.task = asyncio.create_task(run_batches(model, app.state.queue))
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(request: Request) -> list[tuple[str, float]]:
    if not 0 < int(request.headers.get("content-length", 0)) <= MAX_BYTES:
        raise HTTPException(413, f"The image must have 1 to {MAX_BYTES} bytes.")
    body = io.BytesIO(await request.body())
    try:
        image = await asyncio.to_thread(lambda: Image.open(body).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError):
        raise HTTPException(400, "The body is not an image.") from None
    app.state.queue.put_nowait((image, future := asyncio.Future()))
    if isinstance(result := await future, Exception):
        raise result
    return result
