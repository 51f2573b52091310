"""Data sets for classification by the names that recipes call them."""

import collections.abc
import dataclasses
import functools
import pathlib

import numpy as np

from keras_spm.cards import read_class_names
from keras_spm.data import ImageFolder
from keras_spm.data import ImageTable
from keras_spm.data import TfdsClassification
from keras_spm.registry import lookup

_VALIDATION_NAMES = ("validation", "val", "valid")


@dataclasses.dataclass(frozen=True)
class ClassificationData:
    """Examples of each part, and the classes' names.

    Attributes:
        train, validation, test: sequences of `ClassificationExample`s. Data without a test
            part are tested on what they are validated on.
        class_names: list of strings.
        multi_label: bool, whether an image may have several classes.
    """

    train: collections.abc.Sequence
    validation: collections.abc.Sequence
    test: collections.abc.Sequence
    class_names: list
    multi_label: bool

    def counts(self):
        """Returns (classes,) ints, how many images of the training part have each class."""
        labels = np.stack([self.train[index].label for index in range(len(self.train))])
        if self.multi_label:
            return labels.sum(axis=0).astype(int)
        return np.bincount(labels, minlength=len(self.class_names))


def classification_data(recipe):
    """Returns the `ClassificationData` of a `ClassificationRecipe` on files.

    Raises:
        FileNotFoundError, ValueError: as the readers do; and for data without a part to
            train on, or to validate on where the recipe holds none out.
    """
    read = lookup("data set", recipe.dataset, FILE_DATASETS)
    if not recipe.data_folder:
        raise ValueError(
            f"`data_folder` must say where the data set {recipe.dataset!r} is. "
            "Received: data_folder=''"
        )
    return read(recipe)


def _folder(recipe):
    """A folder of class folders, or with `train`, `val` and perhaps `test` above them."""
    folder = pathlib.Path(recipe.data_folder)
    checks = {"invalid": recipe.invalid, "verify": recipe.verify_images}
    parts = {each.name for each in folder.glob("*") if each.is_dir()}
    if "train" not in parts:
        return _held_out(ImageFolder(folder, **checks), recipe)

    def read(part, class_names=None):
        return ImageFolder(folder / part, class_names, **checks)

    return _in_parts(read, parts, recipe)


def _table(recipe):
    """A CSV file, perhaps with a column of parts."""
    checks = {"invalid": recipe.invalid, "verify": recipe.verify_images}
    parts = ImageTable.parts(recipe.data_folder)

    def read(part, class_names=None):
        return ImageTable(recipe.data_folder, None, part, class_names, **checks)

    data = _in_parts(read, parts, recipe) if parts else _held_out(read(None), recipe)
    counts = zip(data.class_names, data.counts(), strict=True)
    lacking = [name for name, count in counts if not count]
    if lacking:
        raise ValueError(
            f"{recipe.data_folder} must have images of every class to train on. Received: none "
            f"of {lacking}"
        )
    return data


def _tfds(recipe):
    def read(part, class_names=None):
        return TfdsClassification(recipe.data_folder, part)

    return _in_parts(read, TfdsClassification.parts(recipe.data_folder), recipe)


def _imagenet(recipe):
    """Its test part comes without labels; its classes are called by words."""
    read = functools.partial(TfdsClassification, recipe.data_folder)
    train, validation = read("train"), read("validation")
    return ClassificationData(
        train, validation, validation, read_class_names("imagenet-1k"), multi_label=False
    )


FILE_DATASETS = {
    "folder": _folder,
    "imagenet2012": _imagenet,
    "table": _table,
    "tfds": _tfds,
}


def _in_parts(read, parts, recipe):
    if "train" not in parts:
        raise ValueError(
            f"{recipe.data_folder} must have a part `train`. Received: {sorted(parts)}"
        )
    train = read("train")
    names = [name for name in (*_VALIDATION_NAMES, "test") if name in parts]
    if not names:
        return _held_out(train, recipe)
    validation = read(names[0], train.class_names)
    test = read("test", train.class_names) if "test" in names else validation
    return ClassificationData(train, validation, test, train.class_names, train.multi_label)


def _held_out(examples, recipe):
    """Divides examples; every class is divided in the same ratio, where each has one."""
    from sklearn.model_selection import train_test_split

    if not recipe.validation_share:
        raise ValueError(
            f"{recipe.data_folder} has no part to validate on. Give it one, `val`, or hold a "
            "share out with `validation_share`. Received: validation_share=0.0"
        )
    labels = None
    if not examples.multi_label:
        labels = [examples[index].label for index in range(len(examples))]
    try:
        train, validation = train_test_split(
            np.arange(len(examples)),
            test_size=recipe.validation_share,
            stratify=labels,
            random_state=recipe.seed,
        )
    except ValueError as error:
        raise ValueError(
            f"{recipe.data_folder} cannot be divided by `validation_share`: {error} "
            f"Received: validation_share={recipe.validation_share}"
        ) from error
    train, validation = _Chosen(examples, train), _Chosen(examples, validation)
    return ClassificationData(
        train, validation, validation, examples.class_names, examples.multi_label
    )


class _Chosen:
    """A sequence's elements at some places, in their order."""

    def __init__(self, examples, places):
        self._examples = examples
        self._places = np.sort(places)

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        return self._examples[int(self._places[index])]
