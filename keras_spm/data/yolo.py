"""Objects from YOLO's text files."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_spm.data.annotated_files import (
    DetectionFiles,
    ImageEntry,
    ObjectEntry,
    box_area,
    check_finite,
    clip_box,
)
from keras_spm.data.classes import CLASSES_FILES, find_classes
from keras_spm.data.folders import (
    all_folders,
    files,
    folders_by_name,
    image_files,
    split_of,
    subfolders,
)
from keras_spm.data.images import image_size
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_class_names,
    find_splits,
    register_reader,
)
from keras_spm.registry import lookup
from keras_spm.types import PathLike

_YAML = (".yaml", ".yml")
_TOLERANCE = 0.01  # By which relative coordinates may exceed 0 to 1, as rounding does.
_SKIP_KEY = "skip_if_label_file_missing"


@dataclasses.dataclass(frozen=True)
class _Config:
    """A folder in YOLO's layout.

    Attributes:
        root: folder that contains all files.
        folder: folder of the YAML file, or the root.
        names: {class number in the files: name}, or None if they are unknown.
        splits: {split: folders of images, or lists of images}.
        skip: whether images without a text file are left out. Otherwise they have no objects.
    """

    root: pathlib.Path
    folder: pathlib.Path
    names: dict[int, str] | None
    splits: dict[str, list[pathlib.Path]]
    skip: bool = False


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

    Invalid are: an unknown class, a malformed line, a coordinate outside of 0 to 1, a box
    without area, a missing image file.

    Args:
        folder: path of the folder, or of its YAML file.
        split: `"train"`, `"validation"` or `"test"`.
        class_names: the classes in the order of labels; by default those of the folder.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.
        allow_outside: whether images and text files may be outside of the folder, but inside
            the folder above. Only for files that you trust.

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
    ) -> None:
        config = _read_config(pathlib.Path(folder), allow_outside)
        sources = lookup("split", split, config.splits)
        labeled = [(path, _label_file(path, config)) for path in _images(sources, config)]
        lines = {path: _lines(path) for _, path in labeled if path is not None}
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
        read = functools.partial(_read, images=images, names=names, labels=labels)
        super().__init__(folder, images, objects, read, invalid)


def _read(annotation, images, names, labels):
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
    if len(values) == 4:
        center, size = values[:2], values[2:]
        corners, area = np.concatenate([center - size / 2, center + size / 2]), None
    else:
        points = values.reshape(-1, 2)
        corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
        following = np.roll(points, -1, axis=0)
        area = abs(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0])) / 2
        area *= height * width
    box = clip_box((corners * (width, height, width, height)).tolist(), height, width)
    return ObjectEntry(index, box, labels[names[number]], False, area or box_area(box))


# === Files ===


def _read_config(folder, allow_outside=False):
    """Returns the `_Config` of a folder or YAML file."""
    if not folder.exists():
        raise FileNotFoundError(f"There is no file or folder {folder}.")
    root, path = folder if folder.is_dir() else folder.parent, _yaml_file(folder)
    if path is not None:
        return _parse(path, root.absolute().parent if allow_outside else root)
    folders = _images_folders(folder)
    splits = {split: [folders[name]] for split, name in find_splits(folders).items()}
    classes = find_classes(folder) or find_classes(folder / "labels")
    numbers = None if classes is None else dict(enumerate(classes.names))
    return _Config(root, folder, numbers, splits or {"train": list(folders.values())})


def _yaml_file(folder):
    """Returns the YAML file of a folder, or None."""
    paths = _yaml_files(folder)
    if len(paths) > 1:  # For the same images, such as with boxes and with polygons.
        paths = [path for path in paths if _has_boxes(_parse(path, folder))] or paths
    if len(paths) > 1:
        found = ", ".join(str(path.relative_to(folder)) for path in paths)
        raise ValueError(f"{folder} has several YAML files: {found}. Pass one of them.")
    return paths[0] if paths else None


def _yaml_files(folder):
    """Returns the files that look like YOLO's in a folder and in the folders inside."""
    if folder.is_file():
        return [folder]
    found = [path for inner in all_folders(folder, 2) for path in files(inner, *_YAML)]
    return [path for path in found if {"names", "nc"} & set(_load_yaml(path))]


def _load_yaml(path):
    """Returns the mapping in a YAML file, or {}."""
    import yaml

    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _parse(path, root):
    """Returns the `_Config` of a YAML file."""
    contents = _load_yaml(path)
    names = contents.get("names", range(contents.get("nc", 0)))
    if not isinstance(names, dict):
        names = dict(enumerate(names))
    if not names or not all(type(number) is int for number in names):
        raise ValueError(
            f"{path}: `names` must be a list of class names, or a mapping from numbers. "
            f"Received: {names!r}"
        )
    splits = {}
    for split, key in _split_keys(contents).items():
        sources = contents[key]
        sources = sources if isinstance(sources, list) else [sources]
        bases = [path.parent, root]
        if isinstance(contents.get("path"), str):
            bases.insert(0, path.parent / _relative(contents["path"]))
        found = [_find(str(source), bases) for source in sources]
        if None in found:
            raise ValueError(
                f"{path}: `{key}` must be folders of images, or files with a list of images, "
                f"inside {root}; pass the folder that contains both. Received: {contents[key]!r}"
            )
        splits[split] = found
    names = {number: str(names[number]) for number in sorted(names)}
    return _Config(root, path.parent, names, splits, contents.get(_SKIP_KEY) is True)


def _split_keys(contents):
    """Returns {split: key} of the splits in a YAML file; `test:` is often empty."""
    return find_splits(key for key, value in contents.items() if isinstance(key, str) and value)


def _relative(name):
    """Returns a path without its root, and without `..`, which may lead out of the folder."""
    path = pathlib.PurePath(name.replace("\\", "/"))
    return pathlib.PurePath(*(part for part in path.parts if part not in (path.anchor, "..")))


def _find(name, bases):
    """Returns the first path that exists, for a path that another computer may have written."""
    parts = _relative(name).parts
    candidates = (base.joinpath(*parts[skip:]) for skip in range(len(parts)) for base in bases)
    return next(filter(pathlib.Path.exists, candidates), None)


def _images_folders(folder):
    """Returns {name: folder of images} of a folder with `labels`, but without a YAML file."""
    names = folders_by_name(folder)
    if "images" in names and "labels" in names:
        return {inner.name: inner for inner in subfolders(names["images"])} or {
            "train": names["images"]
        }
    found = {}
    for name, inner in names.items():
        inside = folders_by_name(inner)
        if split_of(name) and "images" in inside and "labels" in inside:
            found[name] = inside["images"]
    return found


def _has_boxes(config):
    """Returns whether the first object of the training images is a box, not a polygon."""
    for image in _images(config.splits.get("train", []), config):
        path = _label_file(image, config)
        for line in _lines(path) if path else ():
            return len(line.split()) == 5
    return False


def _images(sources, config):
    """Returns the images of a split, sorted."""
    images = set()
    for source in sources:
        if source.is_dir():
            images.update(image_files(source, recursive=True))
            continue
        for line in filter(None, _lines(source)):
            image = _find(line, [source.parent, config.folder, config.root])
            images.add(image or source.parent / _relative(line))
    return sorted(images)


def _label_file(image, config):
    """Returns the text file of an image, or None."""
    name = image.relative_to(config.root).with_suffix(".txt")
    parts = _lower_parts(image, config.root)
    candidates = [name, pathlib.Path("labels", *name.parts[-2:])]
    if "images" in parts:
        position = len(parts) - 1 - parts[::-1].index("images")
        before, after = name.parts[:position], name.parts[position + 1 :]
        candidates.insert(0, pathlib.Path(*before, "labels", *after))
        candidates.insert(0, config.folder.joinpath("labels", *after))
    return next(filter(pathlib.Path.is_file, (config.root / each for each in candidates)), None)


def _lines(path):
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error


def _has_texts(folder):
    """Returns whether there are text files in `labels`, rather than images."""
    inside = [inner for inner in all_folders(folder) if "labels" in _lower_parts(inner, folder)]
    texts = (path.name for inner in inside for path in files(inner, ".txt"))
    return any(name not in CLASSES_FILES for name in texts)


def _lower_parts(path, folder):
    return [part.lower() for part in path.relative_to(folder).parts]


def _splits(folder):
    path = _yaml_file(pathlib.Path(folder))
    known = (
        _read_config(pathlib.Path(folder)).splits if path is None else _split_keys(_load_yaml(path))
    )
    return {split: split for split in known}


def _recognize(folder):
    if folder.is_file() and folder.suffix.lower() not in _YAML:
        return None
    paths = _yaml_files(folder)
    if not paths:
        return "YOLO format" if _images_folders(folder) and _has_texts(folder) else None
    return "YOLO format" if any(_split_keys(_load_yaml(path)) for path in paths) else None


@register_reader(
    "detection",
    "yolo",
    _splits,
    options=("allow_outside",),
    layout=("data.yaml", "images/train/*.jpg", "labels/train/*.txt"),
    recognize=_recognize,
)
def _read_yolo(folder, split, class_names, invalid, verify, allow_outside=False):
    return YoloDetection(folder, split, class_names, invalid, allow_outside)
