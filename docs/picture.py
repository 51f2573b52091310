"""Draws the picture of the README: `python docs/picture.py RUN`.

RUN is the run folder of an instance segmenter that was trained on scenes of digits. The scenes are
the first ones of the test split, which is not trained on.
"""

import pathlib
import sys
import tempfile

from PIL import Image

from keras_spm import trainer
from keras_spm.data import DigitScenes

TARGET = pathlib.Path(__file__).parent / "pages" / "assets" / "predictions.png"
SCENES, SIDE = 4, 128
_HEIGHT = 400  # Pixels of the picture.


def main(run: str) -> None:
    model = trainer.load_task(run)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(SCENES):
            scene = DigitScenes("test", SCENES, SIDE)[index]["image"]
            path = pathlib.Path(folder, f"{index}.png")
            model.draw([scene], path, predictions=model.predict_images([scene]))
            picture = Image.open(path).convert("RGB")
            width = round(picture.width * _HEIGHT / picture.height)
            pictures.append(picture.resize((width, _HEIGHT), Image.Resampling.LANCZOS))
    canvas = Image.new("RGB", (sum(each.width for each in pictures), _HEIGHT), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width
    canvas.save(TARGET, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
