"""Runs a model on image files, for `keras-spm predict`."""

import json
import os
import pathlib
import sys
from collections.abc import Iterable

import numpy as np

from keras_spm.data.images import has_image_extension, is_system_file, read_image
from keras_spm.tasks.graph import channels_of
from keras_spm.tasks.image_task import ImageTask
from keras_spm.terminal import printable
from keras_spm.types import PathLike

_BATCH_SIZE = 8


def print_predictions(
    model: ImageTask,
    names: Iterable[PathLike],
    top: int = 5,
    score_threshold: float = 0.3,
    output: PathLike | None = None,
    as_json: bool = False,
) -> int:
    """Prints one line per image; returns the number of unreadable images, listed on stderr.

    Args:
        model: task.
        names: image files and folders, see `image_paths`.
        top: number of classes, at least 1.
        score_threshold: lowest score of objects, in [0, 1].
        output: folder for pictures of the predictions, or None for the task's default.
        as_json: whether the lines are JSON objects, in ASCII.

    Raises:
        OSError: if the output folder cannot be made.
        ValueError: if an argument is out of range, a folder has no images, or a picture would
            replace another one or an image.
    """
    if top < 1 or not 0 <= score_threshold <= 1:
        raise ValueError(
            "`--top` must be at least 1, and `--score-threshold` from 0 to 1. "
            f"Received: --top {top} --score-threshold {score_threshold}"
        )
    paths = image_paths(names)
    output = output or model.default_output
    targets = {} if output is None else _targets(output, paths)
    # Without preprocessing, images of different sizes cannot be in one batch.
    batch_size = _BATCH_SIZE if getattr(model, "preprocessing", True) else 1
    channels, unreadable = channels_of(model.backbone), []
    for start in range(0, len(paths), batch_size):
        images = _read_images(paths[start : start + batch_size], channels, unreadable)
        predictions = model.predict_images(list(images.values())) if images else []
        for (path, image), prediction in zip(images.items(), predictions, strict=True):
            target = targets.get(path)
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
            record, text = model.predict_record(prediction, image, top, score_threshold, target)
            if as_json:
                print(json.dumps({"image": str(path), **record}))
            else:
                print(printable(f"{path}  {text}"))
    if unreadable:
        print(f"{len(unreadable)} of {len(paths)} images could not be read:", file=sys.stderr)
        print("\n".join(map(printable, unreadable)), file=sys.stderr)
    return len(unreadable)


def image_paths(names: Iterable[PathLike]) -> list[pathlib.Path]:
    """Returns files, and the images at any depth of folders, found by their extension.

    A file that is found twice is returned once. Hidden files are ignored. Raises a `ValueError`
    if a folder has no images.
    """
    paths = []
    for name in map(pathlib.Path, names):
        if not name.is_dir():
            paths.append(name)
            continue
        visible = (path for path in sorted(name.rglob("*")) if not is_system_file(path.name))
        found = [path for path in visible if has_image_extension(path) and path.is_file()]
        if not found:
            raise ValueError(f"{name} contains no images.")
        paths += found
    return list(dict.fromkeys(paths))


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


def _targets(folder, paths):
    """Returns {path: path of its picture}, which keeps the folders of the image."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    inputs = {os.path.abspath(path) for path in paths}
    targets, sources = {}, {}
    for path in paths:
        parents = (part for part in path.parent.parts if part not in (path.anchor, ".."))
        target = pathlib.Path(folder, *parents, f"{path.name}.png")
        other = sources.setdefault(target, path)
        if other != path:
            raise ValueError(
                f"{target} would be the picture of {other} and of {path}. Predict them one after "
                "the other, with two folders as `--output`."
            )
        if os.path.abspath(target) in inputs:
            raise ValueError(
                f"{target}, the picture of {path}, would replace an image. Choose another folder "
                "with `--output`."
            )
        targets[path] = target
    return targets
