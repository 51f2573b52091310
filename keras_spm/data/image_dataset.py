"""Labeled image files, checked before any of them is trained on."""

import collections
import os
import pathlib

import numpy as np

from keras_spm.data.annotations import check_invalid
from keras_spm.data.annotations import settle
from keras_spm.data.examples import ClassificationExample
from keras_spm.data.image_files import faults
from keras_spm.data.image_files import missing_files


class ImageDataset:
    """A sequence of `ClassificationExample`s whose images are paths.

    Args:
        source: what errors name.
        files: list of (id, path, class names): the id under which invalid_annotations name a file,
            and one name or a tuple of several.
        class_names: list of all names, in the order of labels.
        required: of those, the ones that must have images.
        invalid_annotations: {rule: [ids]}, what broke a rule already; added to.
        multi_label: bool, whether an image may have several classes.
        prune: bool, whether `required` classes are dropped when none of their images is
            left.
        invalid: `"raise"`, or `"drop"` to leave out what breaks a rule.
        verify: bool, whether every image is decoded to see that it can be.

    Attributes:
        class_names: list of str; labels are places in it.
        multi_label: bool, whether labels are arrays, as an image may have several.
        invalid_annotations: {rule: [ids]}, what was left out.

    Raises:
        ValueError: for what breaks rules, unless it is dropped, and where no image is left.
    """

    def __init__(
        self,
        source,
        files,
        class_names,
        required,
        invalid_annotations,
        multi_label=False,
        prune=False,
        invalid="raise",
        verify=True,
    ):
        check_invalid(invalid)
        _check_case(source, class_names)
        self.invalid_annotations = invalid_annotations
        self.multi_label = multi_label
        paths = [path for _, path, _ in files]
        sound = []
        for file, fault in zip(files, _faults(paths, verify), strict=True):
            if fault is None:
                sound.append(file)
            else:
                invalid_annotations.setdefault(fault, []).append(file[0])
        counts = collections.Counter(
            name for _, _, names in sound for name in (names if multi_label else [names])
        )
        empty = [name for name in class_names if name in required and not counts[name]]
        if empty:
            invalid_annotations["class without images"] = empty
        settle(source, invalid_annotations, invalid)
        if not sound:
            raise ValueError(f"{source} holds no images that can be trained on.")
        self.class_names = [name for name in class_names if not (prune and name in empty)]
        # Text, of which a million costs a quarter of the memory of as many paths.
        self._paths = [os.fspath(path) for _, path, _ in sound]
        self._labels = self._encoded([names for _, _, names in sound])

    def _encoded(self, names_of_files):
        places = {name: place for place, name in enumerate(self.class_names)}
        if not self.multi_label:
            return np.array([places[name] for name in names_of_files])
        labels = np.zeros((len(names_of_files), len(places)), "float32")
        for row, names in zip(labels, names_of_files, strict=True):
            row[[places[name] for name in names]] = 1
        return labels

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = self._labels[index]
        # A copy, so that whoever changes an example does not change the data set.
        label = label.copy() if self.multi_label else int(label)
        return ClassificationExample(pathlib.Path(self._paths[index]), label)


def _faults(paths, verify):
    if verify:
        return faults(paths)
    missing = missing_files(paths)
    return ["missing image file" if path in missing else None for path in paths]


def _check_case(source, class_names):
    """Raises a `ValueError` for class names that differ in upper and lower case alone.

    Two such folders are one on another computer, and mostly one class that somebody named
    twice.
    """
    spellings = collections.defaultdict(set)
    for name in class_names:
        spellings[name.casefold()].add(name)
    doubled = [sorted(names) for names in spellings.values() if len(names) > 1]
    if doubled:
        raise ValueError(
            f"{source} has class names that differ in upper and lower case alone: "
            f"{'; '.join(' and '.join(map(repr, names)) for names in doubled)}. "
            "Give them one name, or names of their own."
        )


def is_passed_over(name):
    """Whether a file's name says that a system, not a user, put it there."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def has_image_extension(path):
    """Whether a path's extension is that of a format which Pillow reads."""
    from PIL import Image

    return os.path.splitext(path)[1].lower() in Image.registered_extensions()
