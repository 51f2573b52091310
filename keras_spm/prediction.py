"""What a model says of image files: `keras-spm predict`."""

import json
import pathlib
import sys

import numpy as np

from keras_spm.data.images import has_image_extension
from keras_spm.data.images import is_system_file
from keras_spm.data.images import read_image
from keras_spm.tasks import ImageClassifier
from keras_spm.tasks import ObjectDetector
from keras_spm.tasks import SemanticSegmenter
from keras_spm.visualize import class_colors
from keras_spm.visualize import plot_detections

_BATCH = 8


def add_prediction_arguments(parser):
    """Adds what a prediction can be told to an `argparse.ArgumentParser`."""
    parser.add_argument(
        "model", help="a run's folder, a .keras file, or a preset: its name, folder or address"
    )
    parser.add_argument("images", nargs="+", help="image files, and folders of them at any depth")
    parser.add_argument("--top", type=int, default=5, help="classes to name; 5 by default")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="least score of an object; 0.3 by default",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="for a segmenter's segmentation maps, by default `predictions`; for pictures of what a "
        "detector found, by default none",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")


def run_prediction(options, model):
    """Prints what a model says of each image.

    Images that cannot be read are named on the standard error stream, and counted.

    Args:
        options: of `add_prediction_arguments`.
        model: a task.

    Returns:
        How many images could not be read.

    Raises:
        ValueError: where there are no images, and for an argument that is out of range.
    """
    if options.top < 1 or not 0 <= options.score_threshold <= 1:
        raise ValueError(
            "`--top` must be at least 1, and `--score-threshold` from 0 to 1. "
            f"Received: --top {options.top} --score-threshold {options.score_threshold}"
        )
    paths = image_paths(options.images)
    predict = _PREDICTIONS[type(model)]
    # Without preprocessing, images of one batch would have to be of one size.
    together = _BATCH if getattr(model, "preprocessing", True) else 1
    unreadable = []
    for start in range(0, len(paths), together):
        images = _readable(paths[start : start + together], unreadable)
        if images:
            for path, result in zip(images, predict(model, images, options), strict=True):
                print(_line(path, result, options.json))
    if unreadable:
        print(f"{len(unreadable)} of {len(paths)} could not be read:", file=sys.stderr)
        print("\n".join(map(str, unreadable)), file=sys.stderr)
    return len(unreadable)


def image_paths(names):
    """Returns the paths of image files: those named, and those in the folders named.

    Args:
        names: of files and folders. In folders, at any depth, it is the name that tells an
            image; hidden files are passed over.

    Raises:
        ValueError: where a folder has no images.
    """
    paths = []
    for name in map(pathlib.Path, names):
        if not name.is_dir():
            paths.append(name)
            continue
        inside = [
            path
            for path in sorted(name.rglob("*"))
            if has_image_extension(path) and not is_system_file(path.name) and path.is_file()
        ]
        if not inside:
            raise ValueError(f"{name} holds no images.")
        paths += inside
    return paths


def _readable(paths, unreadable):
    """{path: image}; what cannot be read is added to `unreadable`, with the reason."""
    images = {}
    for path in paths:
        try:
            images[path] = read_image(path)
        except FileNotFoundError:
            unreadable.append(f"{path} is not there")
        except (OSError, ValueError) as error:
            unreadable.append(error)
    return images


def _line(path, result, as_json):
    fields, text = result
    if as_json:
        return json.dumps({"image": str(path), **fields}, ensure_ascii=False)
    return f"{path}  {text}"


def _classes(model, images, options):
    for named in model.classify(list(images.values()), options.top):
        fields = {"classes": [{"name": name, "probability": share} for name, share in named]}
        yield fields, _shares(named)


def _objects(model, images, options):
    names = _names(model)
    for path, found in zip(images, model.detect(list(images.values())), strict=True):
        likely = found["scores"] >= options.score_threshold
        found = {name: values[likely] for name, values in found.items()}
        if options.output:
            target = _target(options.output, path)
            plot_detections([images[path]], None, [found], names, target)
        objects = [
            {"name": names[label], "score": float(score), "box": [round(float(x), 1) for x in box]}
            for box, score, label in zip(*found.values(), strict=True)
        ]
        texts = ["{name} {score:.2f} {box}".format(**each) for each in objects]
        yield {"objects": objects}, "  ".join(texts) or "nothing"


def _regions(model, images, options):
    names = _names(model)
    for path, segmentation_map in zip(images, model.segment(list(images.values())), strict=True):
        target = _target(options.output or "predictions", path)
        _write_segmentation_map(segmentation_map, len(names), target)
        shares = np.bincount(segmentation_map.ravel(), minlength=len(names)) / segmentation_map.size
        largest = np.argsort(-shares, kind="stable")[: options.top]
        named = [(names[place], float(shares[place])) for place in largest if shares[place]]
        yield (
            {"segmentation_map": str(target), "shares": dict(named)},
            f"{_shares(named)}  → {target}",
        )


_PREDICTIONS = {
    ImageClassifier: _classes,
    ObjectDetector: _objects,
    SemanticSegmenter: _regions,
}


def _names(model):
    return model.class_names or [str(index) for index in range(model.num_classes)]


def _shares(named):
    return "  ".join(f"{name} {share:.1%}" for name, share in named)


def _target(folder, path):
    """Where a picture of an image goes: images of one name have folders of their own."""
    folder = pathlib.Path(folder, *(part for part in path.parent.parts if part not in ("/", "..")))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{path.name}.png"


def _write_segmentation_map(segmentation_map, count, path):
    """A PNG whose pixels are the classes' numbers, shown in their colors."""
    from PIL import Image

    picture = Image.fromarray(segmentation_map.astype("uint8"))
    picture.putpalette(class_colors(count).ravel().tolist())
    picture.save(path)
