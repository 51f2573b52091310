"""Files of YOLO's layout: the YAML file, the images of each split, and their text files."""

import dataclasses
import pathlib
from collections.abc import Iterable

from keras_spm.data.classes import CLASSES_FILES, find_classes
from keras_spm.data.folders import (
    all_folders,
    files,
    folders_by_name,
    image_files,
    split_of,
    subfolders,
)
from keras_spm.data.readers import Splits, find_splits
from keras_spm.types import PathLike

_YAML = (".yaml", ".yml")
_SKIP_KEY = "skip_if_label_file_missing"


@dataclasses.dataclass(frozen=True)
class YoloConfig:
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


def read_config(
    folder: pathlib.Path, allow_outside: bool = False, polygons: bool = False
) -> YoloConfig:
    """Returns the `YoloConfig` of a folder or YAML file.

    Of several YAML files for the same images, that with boxes is read, or that with polygons.
    """
    if not folder.exists():
        raise FileNotFoundError(f"There is no file or folder {folder}.")
    root, path = folder if folder.is_dir() else folder.parent, _yaml_file(folder, polygons)
    if path is not None:
        return _parse(path, root.absolute().parent if allow_outside else root)
    folders = _images_folders(folder)
    splits = {split: [folders[name]] for split, name in find_splits(folders).items()}
    classes = find_classes(folder) or find_classes(folder / "labels")
    numbers = None if classes is None else dict(enumerate(classes.names))
    return YoloConfig(root, folder, numbers, splits or {"train": list(folders.values())})


def _yaml_file(folder, polygons=False):
    """Returns the YAML file of a folder, or None."""
    paths = _yaml_files(folder)
    if len(paths) > 1:  # For the same images, such as with boxes and with polygons.
        paths = [path for path in paths if _has_boxes(_parse(path, folder)) != polygons] or paths
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
    """Returns the `YoloConfig` of a YAML file."""
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
    return YoloConfig(root, path.parent, names, splits, contents.get(_SKIP_KEY) is True)


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
    for image in split_images(config.splits.get("train", []), config):
        path = label_file(image, config)
        for line in read_lines(path) if path else ():
            return len(line.split()) == 5
    return False


def split_images(sources: Iterable[pathlib.Path], config: YoloConfig) -> list[pathlib.Path]:
    """Returns the images of a split, sorted."""
    images = set()
    for source in sources:
        if source.is_dir():
            images.update(image_files(source, recursive=True))
            continue
        for line in filter(None, read_lines(source)):
            image = _find(line, [source.parent, config.folder, config.root])
            images.add(image or source.parent / _relative(line))
    return sorted(images)


def label_file(image: pathlib.Path, config: YoloConfig) -> pathlib.Path | None:
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


def read_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a text file; a `ValueError` if it is not in UTF-8."""
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


def find_yolo_splits(folder: PathLike) -> Splits:
    """Returns {split: split} of the splits of a folder."""
    path = _yaml_file(pathlib.Path(folder))
    known = (
        read_config(pathlib.Path(folder)).splits if path is None else _split_keys(_load_yaml(path))
    )
    return {split: split for split in known}


def recognize_yolo(folder: pathlib.Path) -> str | None:
    """Returns what the format is called, if a folder or file has it."""
    if folder.is_file() and folder.suffix.lower() not in _YAML:
        return None
    paths = _yaml_files(folder)
    if not paths:
        return "YOLO format" if _images_folders(folder) and _has_texts(folder) else None
    return "YOLO format" if any(_split_keys(_load_yaml(path)) for path in paths) else None
