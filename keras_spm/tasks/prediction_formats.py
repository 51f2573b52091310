"""Files of predictions, for `keras-spm predict --format`.

A format is a file name and a function that writes the predictions for images. A task lists the
formats that it supports in `prediction_formats`.
"""

import csv
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_spm.metrics.coco import encode_masks
from keras_spm.visualize import class_colors

_MAX_PALETTE = 256  # Colors of a PNG file.


class PredictedImage(NamedTuple):
    """An image file with the prediction for it."""

    path: pathlib.Path  # As the user gave it.
    size: tuple[int, int]  # Height and width.
    prediction: Any  # As `predict_images` returns it, without what is below a threshold.


class PredictionFormat(NamedTuple):
    """How predictions are written.

    Attributes:
        file_name: name of the file for all images, or, with `{stem}` for the name of an image
            without its extension, of the file for each image.
        write: function (task, images, path) that writes the predictions for an iterable of
            `PredictedImage`, which runs the model as it is read.
    """

    file_name: str
    write: Callable[[Any, Iterable[PredictedImage], pathlib.Path], None]

    @property
    def is_per_image(self) -> bool:
        """Whether there is a file for each image."""
        return "{stem}" in self.file_name


def write_class_rows(task: Any, images: Iterable[PredictedImage], path: pathlib.Path) -> None:
    """Writes a CSV file of path, class and probability, several rows per image.

    The prediction is a list of (class name, probability).
    """
    rows = ((image.path, *each) for image in images for each in image.prediction)
    _write_csv(path, ("path", "class", "probability"), rows)


def write_box_rows(task: Any, images: Iterable[PredictedImage], path: pathlib.Path) -> None:
    """Writes a CSV file of path, class, score, left, top, right and bottom, a row per object."""
    names = task.display_names
    rows = (
        (image.path, names[label], score, *box)
        for image in images
        for box, score, label in _objects(image.prediction)
    )
    _write_csv(path, ("path", "class", "score", "left", "top", "right", "bottom"), rows)


def write_coco(task: Any, images: Iterable[PredictedImage], path: pathlib.Path) -> None:
    """Writes a COCO file of `images`, `categories`, and `annotations` with scores.

    Ids count from 1. Masks are compressed run lengths. pycocotools' `loadRes` takes the list of
    annotations.
    """
    entries, annotations = [], []
    for image in images:
        height, width = image.size
        entries.append({"id": len(entries) + 1, "file_name": image.path.as_posix()})
        entries[-1].update(height=height, width=width)
        has_masks = "masks" in image.prediction
        masks = _segmentations(image.prediction) if has_masks else []
        for number, ((left, top, right, bottom), score, label) in enumerate(
            _objects(image.prediction)
        ):
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(entries),
                    "category_id": int(label) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": score,
                }
            )
            if has_masks:
                area = int(image.prediction["masks"][number].sum())
                annotations[-1].update(segmentation=masks[number], area=area)
    names = enumerate(task.display_names, start=1)
    categories = [{"id": number, "name": name} for number, name in names]
    contents = {"images": entries, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(contents), encoding="utf-8")


def write_yolo(task: Any, images: Iterable[PredictedImage], path: pathlib.Path) -> None:
    """Writes a line per object: class number, center, width and height of its box, score.

    Coordinates are shares of the image's width and height.
    """
    lines = []
    for image in images:
        height, width = image.size
        for (left, top, right, bottom), score, label in _objects(image.prediction):
            center = (left + right) / 2 / width, (top + bottom) / 2 / height
            numbers = *center, (right - left) / width, (bottom - top) / height, score
            lines.append(" ".join([str(label), *(f"{number:.9g}" for number in numbers)]))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_segmentation_map(task: Any, images: Iterable[PredictedImage], path: pathlib.Path) -> None:
    """Writes a segmentation map as a PNG of class indices, with a color per class.

    For more than 256 classes it has 16 bits and no colors.
    """
    from PIL import Image

    num_classes = len(task.display_names)
    for image in images:
        dtype = "uint8" if num_classes <= _MAX_PALETTE else "uint16"
        picture = Image.fromarray(image.prediction.astype(dtype))
        if num_classes <= _MAX_PALETTE:
            colors = task.class_colors or class_colors(num_classes)
            picture.putpalette(np.ravel(colors).tolist())
        picture.save(path, "PNG")


def write_instance_map(task: Any, images: Iterable[PredictedImage], path: pathlib.Path) -> None:
    """Writes a PNG of 16 bits: 0 for background, n for the n-th object, by descending score.

    Where objects overlap, that of the higher score is on top.
    """
    from PIL import Image

    for image in images:
        numbers = np.zeros(image.size, "uint16")
        masks = image.prediction["masks"]
        for number in range(len(masks), 0, -1):
            numbers[masks[number - 1]] = number
        Image.fromarray(numbers).save(path, "PNG")


CLASSIFICATION_FORMATS = {"csv": PredictionFormat("predictions.csv", write_class_rows)}
DETECTION_FORMATS = {
    "csv": PredictionFormat("predictions.csv", write_box_rows),
    "coco": PredictionFormat("predictions.json", write_coco),
    "yolo": PredictionFormat("{stem}.txt", write_yolo),
}
INSTANCE_FORMATS = {
    "csv": DETECTION_FORMATS["csv"],
    "coco": DETECTION_FORMATS["coco"],
    "masks": PredictionFormat("{stem}.png", write_instance_map),
}
SEGMENTATION_FORMATS = {"masks": PredictionFormat("{stem}.png", write_segmentation_map)}


def object_records(detections: dict[str, np.ndarray], class_names: Sequence[str]) -> list[dict]:
    """Returns `name`, `score` and `box` of each object, JSON-able.

    With masks, also `segmentation`, the mask in COCO's run-length encoding.
    """
    records = [
        {"name": class_names[label], "score": score, "box": [round(number, 1) for number in box]}
        for box, score, label in _objects(detections)
    ]
    if "masks" in detections:
        for record, mask in zip(records, _segmentations(detections), strict=True):
            record["segmentation"] = mask
    return records


def _segmentations(detections):
    """Returns the masks of detections in COCO's encoding, JSON-able."""
    encoded = encode_masks(detections["masks"])
    return [{"size": list(each["size"]), "counts": each["counts"].decode()} for each in encoded]


def _objects(detections):
    """Yields (box as four floats, score, label) of each object."""
    columns = (np.asarray(detections[name]).tolist() for name in ("boxes", "scores", "labels"))
    return zip(*columns, strict=True)


def _write_csv(path, header, rows):
    # Names of files that are not UTF-8 are escaped.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, *values in rows:
            numbers = (f"{each:.9g}" if isinstance(each, float) else each for each in values)
            writer.writerow([name, *numbers])
