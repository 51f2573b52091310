"""Classifies JPEG files with ONNX Runtime: `python onnx_runtime.py birds.onnx heron.jpg …`.

The model is a classifier that `keras-spm export birds.keras birds.onnx` wrote. Only onnxruntime,
numpy and Pillow are needed: class names and preprocessing are in the file's metadata.
"""

import io
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Classifier:
    """Class names and probabilities of images, from the bytes of their files."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        keys = ("class_names", "preprocessing", "multi_label", "outputs")
        values = [json.loads(metadata.get(key, "null")) for key in keys]
        self.class_names, self.preprocessing, self.multi_label, (self.output,) = values

    def __call__(self, data: bytes, top: int = 5) -> list[tuple[str, float]]:
        """Returns the most probable classes of an image file."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        if self.preprocessing is not None:
            image = preprocess(image, **self.preprocessing)
        batch = np.asarray(image, "float32")[None]
        (values,) = self.session.run([self.output], {"images": batch})[0]
        if self.output == "logits":  # To probabilities.
            values = np.exp(values - (0 if self.multi_label else values.max()))
            values = values / (values + 1 if self.multi_label else values.sum())
        order = np.argsort(-values)[:top]
        names = self.class_names or [str(number) for number in range(len(values))]
        return [(names[index], float(values[index])) for index in order]


def preprocess(image, image_size, crop_pct=None, interpolation="bicubic", **_) -> Image.Image:
    """Resizes an image to cover the size divided by `crop_pct`, and crops the center."""
    height, width = (int(length / (crop_pct or 1) + 1e-6) for length in image_size)
    if crop_pct is not None:  # The aspect ratio is kept.
        height, width = (
            max(height, width * image.height // image.width),
            max(width, height * image.width // image.height),
        )
    image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    top, left = (round((a - b) / 2) for a, b in zip((height, width), image_size, strict=True))
    return image.crop((left, top, left + image_size[1], top + image_size[0]))


if __name__ == "__main__":
    classify = Classifier(sys.argv[1])
    for path in map(pathlib.Path, sys.argv[2:]):
        found = (f"{name} {probability:.1%}" for name, probability in classify(path.read_bytes()))
        print(path, *found, sep="  ")
