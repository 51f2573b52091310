"""Objects from YOLO's text files."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_spm.data.detection_files import (
    DetectionFiles,
    ImageEntry,
    ObjectEntry,
    box_area,
    check_finite,
    clip_box,
)
from keras_spm.data.images import image_size
from keras_spm.data.masks import encode_polygons
from keras_spm.data.readers import InvalidAnnotation, check_class_names, register_reader
from keras_spm.data.yolo_files import (
    find_yolo_splits,
    label_file,
    read_config,
    read_lines,
    recognize_yolo,
    split_images,
)
from keras_spm.registry import lookup
from keras_spm.types import PathLike

_TOLERANCE = 0.01  # By which relative coordinates may exceed 0 to 1, as rounding does.


class YoloDetection(DetectionFiles):
    """Objects with boxes from a folder in YOLO's layout.

    A sequence of dicts sorted by path: `image`, a path, `image_id`, `boxes`, `labels`, `crowd`
    and `areas`; see `keras_spm.data.DetectionBatching`. Images are in the folders or lists
    that a YAML file such as `data.yaml` names by split, or in a folder `images`, with or without
    a folder per split. The objects of `images/a/b.jpg` are in `labels/a/b.txt`, or beside the
    image: one per line, its class number, and the center, width and height of its box, or the
    points of its polygon, all relative to the size of the image. Boxes are clipped to the image.
    An image without a text file has no objects.

    Class names are those of the YAML file, a list or a mapping, or the lines of `classes.txt`;
    without either, the numbers in the files.

    With `masks=True` all objects must be polygons, and examples have `masks` (objects, height,
    width) bool.

    Invalid are: an unknown class, a malformed line, a coordinate outside of 0 to 1, a box
    without area, a missing image file.

    Args:
        folder: path of the folder, or of its YAML file.
        split: `"train"`, `"validation"` or `"test"`.
        class_names: the classes in the order of labels; by default those of the folder.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.
        allow_outside: whether images and text files may be outside of the folder, but inside
            the folder above. Only for files that you trust.
        masks: whether to read masks, which needs pycocotools.

    Attributes:
        class_names: list of str.
        invalid_annotations: {reason: [ids]} of dropped annotations: `"labels/a.txt:2"` is the
            second line of a file.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the split is unknown, a file is not in this layout, or annotations are
            invalid.

    Reference:
        https://docs.ultralytics.com/datasets/detect/
    """

    def __init__(
        self,
        folder: PathLike,
        split: str,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
        allow_outside: bool = False,
        masks: bool = False,
    ) -> None:
        config = read_config(pathlib.Path(folder), allow_outside, polygons=masks)
        sources = lookup("split", split, config.splits)
        labeled = [(path, label_file(path, config)) for path in split_images(sources, config)]
        lines = {path: read_lines(path) for _, path in labeled if path is not None}
        names = config.names
        if names is None:
            first = (line.split()[0] for each in lines.values() for line in each if line)
            numbers = {int(number) for number in first if number.isdecimal()}
            names = {number: str(number) for number in sorted(numbers)}
        self.class_names = check_class_names(names.values() if class_names is None else class_names)
        labels = {name: label for label, name in enumerate(self.class_names)}
        images, objects = [], []
        for image, path in labeled:
            if path is None and config.skip:
                continue
            name = image.relative_to(config.root).as_posix()
            images.append(ImageEntry(image, name, *image_size(image)))
            for number, line in enumerate(lines.get(path, ()), start=1):
                if line:
                    line_id = f"{path.relative_to(config.root).as_posix()}:{number}"
                    objects.append((line_id, (len(images) - 1, line)))
        read = functools.partial(_read, images=images, names=names, labels=labels, masks=masks)
        super().__init__(folder, images, objects, read, invalid, masks)


def _read(annotation, images, names, labels, masks):
    index, line = annotation
    fields = line.split()
    try:
        number, values = int(fields[0]), np.array(fields[1:], "float64")
    except ValueError:
        raise InvalidAnnotation("malformed line") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise InvalidAnnotation("malformed line")
    if names.get(number) not in labels:
        raise InvalidAnnotation("unknown class")
    check_finite(values)
    if values.min() < -_TOLERANCE or values.max() > 1 + _TOLERANCE:
        raise InvalidAnnotation("coordinate outside of 0 to 1")
    height, width = images[index].height, images[index].width
    mask = None
    if len(values) == 4:
        center, size = values[:2], values[2:]
        corners, area = np.concatenate([center - size / 2, center + size / 2]), None
    else:
        points = values.reshape(-1, 2)
        corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
        following = np.roll(points, -1, axis=0)
        area = abs(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0])) / 2
        area *= height * width
        if masks:
            mask = encode_polygons([(points * (width, height)).ravel()], height, width)
    box = clip_box((corners * (width, height, width, height)).tolist(), height, width)
    return ObjectEntry(index, box, labels[names[number]], False, area or box_area(box), mask)


@register_reader(
    "detection",
    "yolo",
    find_yolo_splits,
    options=("allow_outside",),
    layout=("data.yaml", "images/train/*.jpg", "labels/train/*.txt"),
    recognize=recognize_yolo,
    has_masks=True,
)
def _read_yolo(folder, split, class_names, invalid, verify, allow_outside=False, masks=False):
    return YoloDetection(folder, split, class_names, invalid, allow_outside, masks)
