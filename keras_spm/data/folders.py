"""Finding images, splits and annotations in folders."""

import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

from keras_spm.data.images import has_image_extension, is_system_file
from keras_spm.types import PathLike

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
# {word in a name: split}
SPLIT_WORDS = {word: split for split, words in _SPLITS.items() for word in words}
# Usual names of folders, in small letters.
IMAGE_FOLDERS = (
    *("images", "image", "imgs", "img", "jpegimages", "photos", "inputs", "input", "rgb"),
    *("leftimg8bit", "x"),
)
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "gt", "gtfine"),
    *("segmentationclass", "segmentationclasspng", "segmentations", "segmentation", "targets"),
    *("target", "groundtruth", "ground_truth", "y"),
)
_SYSTEM_FOLDERS = ("__MACOSX",)
_DEPTH = 4  # Of the folders that are searched.
_TRIED = 20  # Names of images that are looked for.
_LISTED = 12  # Entries of a folder in a tree.


def split_of(name: str) -> str | None:
    """Returns "train", "validation" or "test" if a word of a name says so, such as "val2017".

    Examples: `train`, `instances_val2017`, `custom_train`, `valid`. A split in the middle of a
    word, as in `constraint`, does not count.
    """
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def is_ignored(name: str) -> bool:
    """Returns whether a file or folder is hidden or belongs to the operating system."""
    return is_system_file(name) or name in _SYSTEM_FOLDERS


def subfolders(folder: PathLike) -> list[pathlib.Path]:
    """Returns the folders in a folder, sorted."""
    return [pathlib.Path(each.path) for each in _entries(folder) if each.is_dir()]


def folders_by_name(folder: PathLike) -> dict[str, pathlib.Path]:
    """Returns {name in small letters: folder} of the folders in a folder."""
    return {each.name.lower(): each for each in subfolders(folder)}


def all_folders(folder: PathLike, depth: int | None = _DEPTH) -> list[pathlib.Path]:
    """Returns a folder and the folders inside, from the outside to the inside.

    `depth` is the number of levels, including the folder itself; `None` for all.
    """
    found, level = [], [pathlib.Path(folder)]
    while level and (depth is None or depth > 0):
        found += level
        level = [inner for outer in level for inner in subfolders(outer)]
        depth = None if depth is None else depth - 1
    return found


def files(folder: PathLike, *extensions: str) -> list[pathlib.Path]:
    """Returns the files in a folder, sorted; only those with an extension, such as ".xml"."""
    found = [pathlib.Path(each.path) for each in _entries(folder) if not each.is_dir()]
    return [each for each in found if not extensions or each.suffix.lower() in extensions]


def image_files(folder: PathLike, recursive: bool = False) -> list[pathlib.Path]:
    """Returns the image files in a folder, found by their extension and sorted by path."""
    found = []
    for each in _entries(folder):
        if each.is_dir():
            found += image_files(each.path, recursive=True) if recursive else []
        elif has_image_extension(each.name):
            found.append(pathlib.Path(each.path))
    return found


def has_images(folder: PathLike) -> bool:
    """Returns whether a folder itself has an image file."""
    return any(has_image_extension(each.name) for each in _entries(folder))


def find_images(top: PathLike, names: Sequence[str], split: str | None) -> pathlib.Path:
    """Returns the folder, in a folder, that most names of images are relative to.

    Of several, it is one whose path has the split, and then the outermost one.
    """
    names = names[:_TRIED]

    def fit(folder):
        count = sum((folder / name).is_file() for name in names)
        parts = folder.relative_to(top).parts
        has_split = split is not None and split in map(split_of, parts)
        return count, has_split, -len(parts)

    return max(all_folders(top), key=fit)


def split_folders(
    folder: PathLike, has_data: Callable[[pathlib.Path], object]
) -> dict[str, pathlib.Path]:
    """Returns {name: folder} of the folders of splits that have data."""
    inside = [each for each in subfolders(folder) if split_of(each.name) is not None]
    return {each.name: each for each in inside if has_data(each)}


def common_stems(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns {name without extension: path}.

    Raises:
        ValueError: if two paths have the same name but for the extension.
    """
    stems: dict[str, pathlib.Path] = {}
    for path in paths:
        other = stems.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"{other} and {path} have the same name but for the extension.")
    return stems


def unwrapped(folder: PathLike) -> list[pathlib.Path]:
    """Returns a folder and, as archives often unpack, the only folder inside, and so on."""
    found = [pathlib.Path(folder)]
    while len(entries := _entries(found[-1])) == 1 and entries[0].is_dir():
        found.append(pathlib.Path(entries[0].path))
    return found


def tree(folder: PathLike, depth: int = 2) -> str:
    """Returns what is in a folder as an indented text; files are summed up by extension."""
    return "\n".join(_tree_lines(folder, depth, "  "))


def _tree_lines(folder, depth, indent):
    entries, lines = _entries(folder), []
    folders = [each for each in entries if each.is_dir()]
    for inner in folders[:_LISTED]:
        lines.append(f"{indent}{inner.name}/")
        if depth > 1:
            lines += _tree_lines(inner.path, depth - 1, indent + "  ")
    if len(folders) > _LISTED:
        lines.append(f"{indent}… {len(folders):,} folders")
    by_extension: dict[str, list[str]] = {}
    for each in entries:
        if not each.is_dir():
            extension = os.path.splitext(each.name)[1].lower()
            by_extension.setdefault(extension, []).append(each.name)
    for names in by_extension.values():
        lines.append(f"{indent}{names[0]}" + (f", … {len(names):,} files" * (len(names) > 1)))
    return lines


def _entries(folder):
    """Returns the visible entries of a folder, sorted by name; none if it is not a folder."""
    try:
        with os.scandir(folder) as entries:
            visible = [each for each in entries if not is_ignored(each.name)]
    except (NotADirectoryError, FileNotFoundError):
        return []
    inside = os.path.realpath(folder)
    visible = [each for each in visible if not (each.is_symlink() and _contains(each.path, inside))]
    return sorted(visible, key=lambda each: each.name)


def _contains(link, folder):
    """Returns whether a link leads to a folder that contains the link: an endless path."""
    target = os.path.realpath(link)
    return os.path.isdir(target) and os.path.commonpath([target, folder]) == target


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
