"""Runs a model on image files, for `keras-spm predict`."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_spm.data.folders import image_paths
from keras_spm.data.images import read_image
from keras_spm.files import atomic_write
from keras_spm.tasks.graph import channels_of
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.prediction_formats import PredictedImage
from keras_spm.terminal import printable
from keras_spm.types import PathLike

_BATCH_SIZE = 8
_PICTURE = "{name}.png"
_DEFAULT_OUTPUT = "predictions"  # Folder for files in a format.


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `keras-spm predict` that are not the model."""
    parser.add_argument("images", nargs="+", help="image files, and folders of images")
    text = "number of classes to print; by default 5"
    parser.add_argument("--top", type=int, default=5, help=text)
    text = "lowest score of the objects that are printed and written; by default 0.3"
    parser.add_argument("--score-threshold", type=float, default=0.3, help=text)
    text = (
        "folder for pictures or files of the predictions; by default no pictures, but "
        "`predictions` for the segmentation maps of a segmenter and for files"
    )
    parser.add_argument("--output", metavar="FOLDER", help=text)
    text = (
        "write files instead of pictures: csv (classifiers, detectors), coco or yolo "
        "(detectors), masks (segmenters), or a format of your own task"
    )
    parser.add_argument("--format", help=text)
    text = "predict large images in windows of this many pixels: 512, or 512x768 (height, width)"
    parser.add_argument("--tile", type=_tile, metavar="SIZE", help=text)
    text = "share of a window that the next one covers; by default 0.25"
    parser.add_argument("--overlap", type=float, help=text)
    text = "test-time augmentation: `flip` also predicts flipped images"
    parser.add_argument("--tta", help=text)
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")


def _tile(text):
    try:
        height, width = (int(side) for side in (text.split("x") * 2)[:2])
    except ValueError:
        message = f"must be a size such as 512 or 512x768. Received: {text}"
        raise argparse.ArgumentTypeError(message) from None
    return height, width


def print_predictions(
    model: ImageTask,
    names: Iterable[PathLike],
    top: int = 5,
    score_threshold: float = 0.3,
    output: PathLike | None = None,
    as_json: bool = False,
    format: str | None = None,
    options: dict[str, Any] | None = None,
) -> int:
    """Prints one line per image; returns the number of unreadable images, listed on stderr.

    Args:
        model: task.
        names: image files and folders, see `image_paths`.
        top: number of classes, at least 1.
        score_threshold: lowest score of objects, in [0, 1].
        output: folder for pictures or files of the predictions, or None for the task's default.
        as_json: whether the lines are JSON objects, in ASCII.
        format: one of the task's `prediction_formats`, of files that are written instead of
            pictures.
        options: arguments of the task's `predict_images`.

    Raises:
        OSError: if the output folder cannot be made.
        ValueError: if an argument is out of range, the task does not support an option or the
            format, a folder has no images, or a file would replace another one or an image.
    """
    if top < 1 or not 0 <= score_threshold <= 1:
        raise ValueError(
            "`--top` must be at least 1, and `--score-threshold` from 0 to 1. "
            f"Received: --top {top} --score-threshold {score_threshold}"
        )
    options = options or {}
    _check_options(model, options)
    file_format = None if format is None else _file_format(model, format)
    paths = image_paths(names)
    output = output or model.default_output or (format and _DEFAULT_OUTPUT)
    file_name = _PICTURE if file_format is None else file_format.file_name
    targets = {} if output is None else _targets(output, paths, file_name)
    unreadable = []

    def predicted():
        """Yields (target, image with its prediction) as images are predicted and printed."""
        for path, image, prediction in _predict(model, paths, options, unreadable):
            picture = targets.get(path) if file_format is None else None
            record, text = model.predict_record(prediction, image, top, score_threshold, picture)
            if as_json:
                print(json.dumps({"image": str(path), **record}))
            else:
                print(printable(f"{path}  {text}"))
            if file_format is not None:
                selected = model.select(prediction, top, score_threshold)
                yield targets[path], PredictedImage(path, image.shape[:2], selected)

    if file_format is None:
        list(predicted())
    else:
        _write(model, file_format, predicted(), targets)
    if unreadable:
        print(f"{len(unreadable)} of {len(paths)} images could not be read:", file=sys.stderr)
        print("\n".join(map(printable, unreadable)), file=sys.stderr)
    return len(unreadable)


def _write(model, file_format, predicted, targets):
    """Writes the file of each image, or one file, while images are predicted."""
    if file_format.is_per_image:
        for target, image in predicted:
            with atomic_write(target) as temporary:
                file_format.write(model, [image], temporary)
        return
    (target,) = set(targets.values())
    with atomic_write(target) as temporary:
        file_format.write(model, (image for _, image in predicted), temporary)


def _check_options(model, options):
    name = type(model).__name__
    for option in options:
        if option not in model.prediction_options:
            supported = ", ".join(f"`--{each}`" for each in model.prediction_options) or "none"
            raise ValueError(f"{name} does not support `--{option}`. Supported: {supported}.")
    if "overlap" in options and "tile" not in options:
        raise ValueError("`--overlap` needs `--tile`, the size of the windows that overlap.")


def _file_format(model, name):
    if name not in model.prediction_formats:
        supported = ", ".join(model.prediction_formats) or "none"
        raise ValueError(
            f"{type(model).__name__} does not support `--format {name}`. Supported: {supported}."
        )
    return model.prediction_formats[name]


def _predict(model, paths, options, unreadable):
    """Yields (path, image, prediction), and appends errors of images to `unreadable`."""
    # Without preprocessing, images of different sizes cannot be in one batch.
    batch_size = _BATCH_SIZE if getattr(model, "preprocessing", True) else 1
    channels = channels_of(model.backbone)
    for start in range(0, len(paths), batch_size):
        images = _read_images(paths[start : start + batch_size], channels, unreadable)
        predictions = model.predict_images(list(images.values()), **options) if images else []
        yield from zip(images, images.values(), predictions, strict=True)


def _read_images(paths, channels, unreadable):
    """Returns {path: image}, and appends errors to `unreadable`."""
    images = {}
    for path in paths:
        try:
            images[path] = np.asarray(read_image(path, channels=channels))
        except FileNotFoundError:
            unreadable.append(f"{path} does not exist")
        except (OSError, ValueError) as error:
            unreadable.append(error)
    return images


def _targets(folder, paths, file_name):
    """Makes the folders for files of predictions; returns {path of an image: path of its file}.

    Files for single images keep the folders of the images.
    """
    inputs = {os.path.realpath(path) for path in paths}
    targets, sources = {}, {}
    for path in paths:
        target = pathlib.Path(folder, file_name)
        if "{" in file_name:
            parents = (part for part in path.parent.parts if part not in (path.anchor, ".."))
            target = pathlib.Path(
                folder, *parents, file_name.format(name=path.name, stem=path.stem)
            )
            other = sources.setdefault(target, path)
            if other != path:
                raise ValueError(
                    f"{target} would be the file of {other} and of {path}. Predict them one "
                    "after the other, with two folders as `--output`."
                )
        if os.path.realpath(target) in inputs:
            raise ValueError(
                f"{target}, the file of {path}, would replace an image. Choose another folder "
                "with `--output`."
            )
        targets[path] = target
    for parent in {target.parent for target in targets.values()}:
        parent.mkdir(parents=True, exist_ok=True)
    return targets
