"""Draws the picture of the README: `python docs/picture.py RUN`.

RUN is the folder of a run of `keras-spm train instances_digit_scenes`. The scenes are the first
ones of the test split, which is not trained on.
"""

import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image

from keras_spm import trainer
from keras_spm.data import DigitScenes

TARGET = pathlib.Path(__file__).parent / "pages" / "assets" / "predictions.png"
SCENES, SIDE = 4, 128
_SIZE = (420, 392)  # Width and height of a scene in the picture.


def main(run: str) -> None:
    """Draws the scenes beside each other."""
    model = trainer.load_task(run)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "scene.png")
        for index in range(SCENES):
            scene = DigitScenes("test", SCENES, SIDE)[index]["image"]
            model.draw([scene], path, predictions=model.predict_images([scene]))
            with Image.open(path) as picture:
                scaled = picture.convert("RGB").resize(_SIZE, Image.Resampling.LANCZOS)
            pictures.append(np.asarray(scaled))
    picture = Image.fromarray(np.concatenate(pictures, axis=1))
    picture.quantize(256).save(TARGET, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
