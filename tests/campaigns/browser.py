"""The campaign of the browser page: a dropped photo is classified in headless Chromium.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.browser`. It needs Debian's `chromium` and
`chromium-driver`, and `npm`. A small classifier is exported with its preprocessing; a copy of
docs/serving/browser is served on this machine, with onnxruntime-web beside it; a photo is dropped
on the page, which must show the classes and probabilities that `classify` returns. Then a file
that is not an image is dropped, which the page must say.
"""

import base64
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

import keras_spm
from tests.browser import browser, served
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
