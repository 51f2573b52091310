"""Objects from the JSON files of labelme."""

import functools
import json
import math
import pathlib
from collections.abc import Sequence

from keras_spm.data.detection_files import (
    DetectionFiles,
    ImageEntry,
    ObjectEntry,
    box_area,
    check_finite,
    clip_box,
)
from keras_spm.data.folders import all_folders, common_stems, files, image_files, split_folders
from keras_spm.data.images import image_size
from keras_spm.data.masks import encode_polygons
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_class_names,
    find_splits,
    register_reader,
)
from keras_spm.registry import lookup
from keras_spm.types import PathLike

_START = 2000  # Bytes in which a file names its shapes; the image may follow them.


class LabelmeDetection(DetectionFiles):
    """Objects with boxes from a folder of labelme's JSON files.

    A sequence of dicts sorted by path: `image`, a path, `image_id`, `boxes`, `labels`, `crowd`
    and `areas`; see `keras_spm.data.DetectionBatching`. The image of a JSON file is beside it
    and has the name that the file says, or that of the file. Rectangles, polygons and circles
    become the boxes around them, clipped to the image. With `masks=True` all shapes must be
    polygons, and examples have `masks` (objects, height, width) bool.

    Invalid are: an unknown class, a shape of another type, malformed points, a box without
    area or outside of the image, a missing image file. Images without a JSON file are not read.

    Args:
        folder: path of the folder.
        split: name of the folder of a split, such as `"train"`, or `None` for all files.
        class_names: the classes in the order of labels; by default all in the folder, sorted.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.
        masks: whether to read masks, which needs pycocotools.

    Attributes:
        class_names: list of str.
        invalid_annotations: {reason: [ids]} of dropped annotations: `"a.json #2"` is the second
            shape of a file.

    Raises:
        ValueError: if the split is unknown, a file is not one of labelme's, or objects are
            invalid; when an example is read, if the image has another size than listed.
    """

    def __init__(
        self,
        folder: PathLike,
        split: str | None = None,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
        masks: bool = False,
    ) -> None:
        folder = pathlib.Path(folder)
        if class_names is None:
            shapes = (each for path in _json_files(folder) for each in _contents(path)["shapes"])
            class_names = sorted({each["label"] for each in shapes if _is_named(each)})
        self.class_names = check_class_names(class_names)
        top = folder if split is None else lookup("split", split, _split_folders(folder))
        images, objects = [], []
        for path in _json_files(top):
            contents = _contents(path)
            image, name = _image(path, contents), path.relative_to(folder).as_posix()
            size = (contents.get("imageHeight"), contents.get("imageWidth"))
            if not all(type(side) is int and side > 0 for side in size):
                size = image_size(image) if image.is_file() else (1, 1)
            images.append(ImageEntry(image, name, *size))
            for number, shape in enumerate(contents["shapes"], start=1):
                objects.append((f"{name} #{number}", (len(images) - 1, shape)))
        labels = {name: label for label, name in enumerate(self.class_names)}
        read = functools.partial(_read, images=images, labels=labels, masks=masks)
        super().__init__(folder, images, objects, read, invalid, masks)


def _is_named(shape):
    return isinstance(shape, dict) and isinstance(shape.get("label"), str) and shape["label"]


def _read(annotation, images, labels, masks):
    index, shape = annotation
    if not _is_named(shape) or shape["label"] not in labels:
        raise InvalidAnnotation("unknown class")
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    minimum = {"rectangle": 2, "polygon": 3, "circle": 2}.get(kind)
    if minimum is None:
        raise InvalidAnnotation(f"shape of type {kind!r}")
    if not isinstance(points, list) or len(points) < minimum or not all(map(_is_point, points)):
        raise InvalidAnnotation("malformed points")
    check_finite(number for point in points for number in point)
    if kind == "circle":  # Its center, and a point on it.
        (x, y), edge = points[0], math.dist(*points[:2])
        points = [(x - edge, y - edge), (x + edge, y + edge)]
    columns, rows = zip(*points, strict=True)
    box = (min(columns), min(rows), max(columns), max(rows))
    height, width = images[index].height, images[index].width
    box, mask = clip_box(box, height, width), None
    if masks and kind == "polygon":
        mask = encode_polygons([[number for point in points for number in point]], height, width)
    return ObjectEntry(index, box, labels[shape["label"]], False, box_area(box), mask)


def _is_point(point):
    return isinstance(point, list) and len(point) == 2 and {*map(type, point)} <= {int, float}


# === Files ===


def _json_files(folder):
    return [
        path for inner in all_folders(folder) for path in files(inner, ".json") if _has_shapes(path)
    ]


def _has_shapes(path):
    with path.open("rb") as file:
        return b'"shapes"' in file.read(_START)


def _contents(path):
    try:
        contents = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of labelme: invalid JSON ({error}).") from error
    if not isinstance(contents, dict) or not isinstance(contents.get("shapes"), list):
        raise ValueError(f"{path} is not a file of labelme: `shapes` must be a list.")
    return contents


def _image(path, contents):
    """Returns the image of a JSON file, which is in the same folder."""
    name = str(contents.get("imagePath") or "").replace("\\", "/")
    image = path.parent / pathlib.PurePosixPath(name).name
    if name and image.is_file():
        return image
    near = [each for each in image_files(path.parent) if each.stem == path.stem]
    return common_stems(near).get(path.stem, image if name else path.with_suffix(".jpg"))


def _split_folders(folder):
    return split_folders(folder, _json_files)


def _find_splits(folder):
    return find_splits(_split_folders(pathlib.Path(folder))) or {"train": None}


def _recognize(folder):
    paths = (path for inner in all_folders(folder, 3) for path in files(inner, ".json"))
    return "labelme format" if any(map(_has_shapes, paths)) else None


@register_reader(
    "detection",
    "labelme",
    _find_splits,
    layout=("*.jpg", "*.json"),
    recognize=_recognize,
    has_masks=True,
)
def _read_labelme(folder, split, class_names, invalid, verify, masks=False):
    return LabelmeDetection(folder, split, class_names, invalid, masks)
