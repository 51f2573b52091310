"""The campaign of the browser page: a dropped photo is classified in headless Chromium.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.browser`. It needs Debian's `chromium` and
`chromium-driver`, and `npm`. A small classifier is exported with its preprocessing; a copy of
docs/serving/browser is served on this machine, with onnxruntime-web beside it; a photo is dropped
on the page, which must show the classes and probabilities that `classify` returns. Then a file
that is not an image is dropped, which the page must say.
"""

import base64
import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import numpy as np
from PIL import Image

import keras_spm
from tests.exported import CLASSES
from tests.helpers import randomize, tiny_backbone

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "serving" / "browser"
SECONDS = 60  # Of waiting for the page.

DROP = """
const [name, content] = arguments;
const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], name));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer }));
"""
RESULT = """
const rows = [...document.querySelectorAll("#classes tr")];
return {
  status: document.getElementById("status").textContent,
  classes: rows.map((row) => [...row.cells].map((cell) => cell.textContent)),
};
"""


class Browser:
    """A session of headless Chromium, by the WebDriver protocol."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu"]
        options = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        session = self._post("", {"capabilities": {"alwaysMatch": options}})
        self.address += f"/{session['sessionId']}"

    def open(self, address):
        self._post("/url", {"url": address})

    def run(self, script, *arguments):
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def close(self):
        request = urllib.request.Request(self.address, method="DELETE")
        urllib.request.urlopen(request).close()

    def _post(self, path, body):
        request = urllib.request.Request(f"{self.address}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request) as response:
            return json.load(response)["value"]


@contextlib.contextmanager
def browser():
    """Context manager for a `Browser`."""
    command = [shutil.which("chromedriver"), "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = next(
            line.split("port ")[1].strip(" .\n")
            for line in process.stdout
            if "started successfully on port" in line
        )
        opened = Browser(port)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def served(folder):
    """Context manager for the address of a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def wait_for(page, is_done):
    """Returns the state of the page as soon as `is_done(state)`."""
    end = time.monotonic() + SECONDS
    while True:
        state = page.run(RESULT)
        if is_done(state):
            return state
        if time.monotonic() > end:
            raise TimeoutError(f"The page shows {state}.")
        time.sleep(0.1)


def make_photo(path):
    """Writes a smooth photo, and returns its path."""
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), "uint8")
    Image.fromarray(small).resize((350, 250)).save(path)
    return path


def main():
    """Runs the campaign, and returns the exit status."""
    preprocessing = keras_spm.data.ImagePreprocessing((64, 96), crop_pct=0.875)
    model = randomize(
        keras_spm.ImageClassifier(tiny_backbone(), 3, CLASSES, preprocessing=preprocessing)
    )
    with tempfile.TemporaryDirectory() as folder:
        page_folder = pathlib.Path(folder, "page")
        shutil.copytree(PAGE, page_folder, ignore=shutil.ignore_patterns("node_modules"))
        install = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=page_folder, check=True)
        model.export(
            page_folder / "model.onnx", format="onnx", verbose=False, include_preprocessing=True
        )
        photo = make_photo(page_folder / "photo.png")
        expected = model.classify(photo)
        with served(page_folder) as address, browser() as page:
            page.open(f"{address}/index.html")
            wait_for(page, lambda state: state["status"] == "Ready.")
            page.run(DROP, photo.name, base64.b64encode(photo.read_bytes()).decode())
            state = wait_for(page, lambda state: state["status"].endswith("ms"))
            print(state, expected)
            names = [name for name, _ in state["classes"]]
            shares = [float(share.removesuffix(" %")) / 100 for _, share in state["classes"]]
            assert names == [name for name, _ in expected]
            np.testing.assert_allclose(shares, [share for _, share in expected], atol=2e-3)
            page.run(DROP, "text.txt", base64.b64encode(b"not an image").decode())
            wait_for(page, lambda state: state["status"].startswith("This file cannot"))
    print("right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
