"""Labeled image files, and the format with one folder per class."""

import collections
import os
import pathlib
from collections.abc import Collection, Sequence

import numpy as np

from keras_spm.data.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    all_folders,
    files,
    has_images,
    split_of,
    subfolders,
)
from keras_spm.data.images import find_invalid_images, has_image_extension, missing_files
from keras_spm.data.readers import (
    InvalidAnnotations,
    check_class_names,
    check_invalid,
    find_splits,
    register_reader,
    report_invalid,
)
from keras_spm.types import Example, PathLike


class LabeledFiles:
    """A sequence of dicts of `image`, a path, and `label`.

    Args:
        source: name of the data set in error messages.
        files: list of (id in `invalid_annotations`, path, one class name or a tuple of them).
        class_names: all names, in the order of labels.
        required: names that must have images.
        invalid_annotations: {reason: [ids]} found so far; updated in place.
        multi_label: whether an image may have several classes, or none.
        prune: whether `required` classes without valid images are removed.
        ignored_files: {reason: [ids]} of files that are not data, for the data report.
        invalid: `"raise"`, or `"drop"` to leave out invalid files.
        verify: whether every image is decoded to check it.

    Attributes:
        labels: (count,) int64, or (count, classes) float32 of 0 and 1 if `multi_label`.
    """

    counted = "images"  # By `counts`.

    def __init__(
        self,
        source: object,
        files: list[tuple],
        class_names: list[str],
        required: Collection[str],
        invalid_annotations: InvalidAnnotations,
        multi_label: bool = False,
        prune: bool = False,
        invalid: str = "raise",
        verify: bool = True,
        ignored_files: InvalidAnnotations | None = None,
    ) -> None:
        check_invalid(invalid)
        self.ignored_files = ignored_files or {}
        _check_case(source, class_names)
        self.invalid_annotations = invalid_annotations
        self.multi_label = multi_label
        paths = [path for _, path, _ in files]
        if verify:
            reasons = find_invalid_images(paths)
        else:
            missing = missing_files(paths)
            reasons = ["missing image file" if path in missing else None for path in paths]
        valid = []
        for file, reason in zip(files, reasons, strict=True):
            if reason is None:
                valid.append(file)
            else:
                invalid_annotations.setdefault(reason, []).append(file[0])
        counts = collections.Counter(
            name for _, _, names in valid for name in (names if multi_label else [names])
        )
        empty = [name for name in class_names if name in required and not counts[name]]
        if empty:
            invalid_annotations["class without images"] = empty
        report_invalid(source, invalid_annotations, invalid)
        if not valid:
            raise ValueError(f"{source} has no valid images.")
        self.class_names = [name for name in class_names if not (prune and name in empty)]
        # Strings take a quarter of the memory of `pathlib.Path` objects.
        self._paths = [os.fspath(path) for _, path, _ in valid]
        self.labels = self._encode([names for _, _, names in valid])

    def _encode(self, names_of_files):
        indices = {name: index for index, name in enumerate(self.class_names)}
        if not self.multi_label:
            return np.array([indices[name] for name in names_of_files])
        labels = np.zeros((len(names_of_files), len(indices)), "float32")
        for row, names in zip(labels, names_of_files, strict=True):
            row[[indices[name] for name in names]] = 1
        return labels

    def image_paths(self) -> list[pathlib.Path]:
        """Returns the path of every image."""
        return list(map(pathlib.Path, self._paths))

    def counts(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns (classes,) ints, the number of images of each class, of all or some images."""
        labels = self.labels[indices]
        if self.multi_label:
            return labels.sum(axis=0).astype(int)
        return np.bincount(labels, minlength=len(self.class_names))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = self.labels[index]
        # A copy, so that a changed example does not change the data set.
        label = label.copy() if self.multi_label else int(label)
        return {"image": pathlib.Path(self._paths[index]), "label": label}


def _check_case(source, class_names):
    """Refuses class names that differ only in case, which are usually one class."""
    spellings = collections.defaultdict(set)
    for name in class_names:
        spellings[name.casefold()].add(name)
    doubled = [sorted(names) for names in spellings.values() if len(names) > 1]
    if doubled:
        raise ValueError(
            f"{source} has class names that differ only in case: "
            f"{'; '.join(' and '.join(map(repr, names)) for names in doubled)}. "
            "Merge or rename them."
        )


class ImageFolder(LabeledFiles):
    """Images in one folder per class, such as `photos/heron/0001.jpg`.

    A sequence of dicts of `image`, a path, and `label`, an int, sorted by class and file name.
    Folders inside a class folder belong to the class. All modes of the raster formats that
    Pillow decodes itself are accepted; `read_image` converts them to 8-bit RGB. Files beside
    the class folders and files without an image extension are ignored.

    Invalid are: a class without images, and, with `verify`, a file that is empty, not an image,
    truncated, unreadable, smaller than 8 pixels, above `PIL.Image.MAX_IMAGE_PIXELS` (89 million
    pixels by default), or has pixels that are no levels, such as NaN.

    Args:
        folder: path.
        class_names: the classes in the order of labels; folders with other names are invalid.
            `None` for the folder names, sorted.
        invalid: `"raise"`, or `"drop"` to leave out invalid files. Classes without images are
            then removed, unless they are in `class_names`.
        verify: whether every image is decoded once to check it, in 1 to 30 ms per core.

    Attributes:
        class_names: list of str.
        invalid_annotations: {reason: [names]} of dropped files.
        ignored_files: {reason: [names]} of ignored files; hidden ones and those of operating
            systems are not listed.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if files are invalid and not dropped, there are no class folders, or class
            names differ only in case.

    Example:

    >>> photos = keras_spm.data.ImageFolder("photos", invalid="drop")
    >>> photos.class_names, len(photos), photos.invalid_annotations
    (['heron', 'stork'], 412, {'empty file': ['heron/0003.jpg']})
    """

    def __init__(
        self,
        folder: PathLike,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
        verify: bool = True,
    ) -> None:
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder.")
        classes = subfolders(folder)
        if not classes:
            raise ValueError(f"{folder} must contain one folder per class. Received: none")
        ignored_files, invalid_annotations = {}, {}
        if beside := [path.name for path in files(folder)]:
            ignored_files["file beside the class folders"] = beside
        found = [entry.name for entry in classes]
        names = found if class_names is None else check_class_names(class_names)
        if unknown := [name for name in found if name not in names]:
            invalid_annotations["folder of an unknown class"] = unknown
        labeled = []
        for entry in classes:
            if entry.name in names:
                labeled += _class_files(folder, entry, ignored_files)
        super().__init__(
            folder,
            labeled,
            names,
            required=found,
            invalid_annotations=invalid_annotations,
            prune=class_names is None,
            invalid=invalid,
            verify=verify,
            ignored_files=ignored_files,
        )


def _class_files(folder, class_folder, ignored_files):
    found = []
    for inner in all_folders(class_folder, depth=None):
        for path in files(inner):
            name = path.relative_to(folder).as_posix()
            if has_image_extension(path):
                found.append((name, path, class_folder.name))
            else:
                ignored_files.setdefault("file without an image extension", []).append(name)
    return found


def _folder_splits(folder):
    """Folders of splits above the class folders, or class folders alone."""
    inside = {inner.name: inner for inner in subfolders(folder)}
    splits = find_splits(inside)
    # A class can be called train; then it has no class folders.
    is_split = "train" in splits and subfolders(inside[splits["train"]])
    return splits if is_split else {"train": None}


def _recognize(folder):
    split = _folder_splits(folder)["train"]
    classes = subfolders(folder / (split or ""))
    names = {each.name.lower() for each in classes if any(map(has_images, all_folders(each)))}
    # Folders of images and of their annotations, or of splits, are not classes.
    if len(names) < 2 or names <= {*IMAGE_FOLDERS, *MASK_FOLDERS} or all(map(split_of, names)):
        return None
    return "a folder per class" + (", with splits" if split else "")


@register_reader(
    "classification",
    "folder",
    _folder_splits,
    layout=("train/heron/*.jpg", "train/stork/*.jpg", "val/heron/*.jpg", "val/stork/*.jpg"),
    recognize=_recognize,
)
def _read_folder(folder, split, class_names, invalid, verify):
    return ImageFolder(pathlib.Path(folder, split or ""), class_names, invalid, verify)
