"""Data sets for classification by the names that recipes call them."""

import collections.abc
import dataclasses
import operator
import pathlib

import numpy as np

from keras_spm.cards import read_class_names
from keras_spm.data import CsvDataset
from keras_spm.data import ImageFolder
from keras_spm.data import TfdsClassification
from keras_spm.registry import lookup
from keras_spm.trainer.data_splits import DataSplits

_VALIDATION_NAMES = ("validation", "val", "valid")


@dataclasses.dataclass(frozen=True)
class ClassificationData(DataSplits):
    """Parts of `ClassificationExample`s.

    Attributes:
        multi_label: bool, whether an image may have several classes.
    """

    multi_label: bool

    def counts(self):
        """Returns (classes,) ints, how many images of the training split have each class."""
        labels = np.stack([self.train[index].label for index in range(len(self.train))])
        if self.multi_label:
            return labels.sum(axis=0).astype(int)
        return np.bincount(labels, minlength=len(self.class_names))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """How a data set is read.

    Attributes:
        splits: function of a recipe, the set of its splits' names; empty where it is not
            divided.
        read: function (recipe, name of a split or None for all, class names or None) of its
            examples.
        class_names: function of the examples.
        counts: bool, whether every class must be seen to have images to train on.
    """

    splits: collections.abc.Callable
    read: collections.abc.Callable
    class_names: collections.abc.Callable = operator.attrgetter("class_names")
    counts: bool = False


def classification_data(recipe):
    """Returns the `ClassificationData` of a `ClassificationRecipe` on files.

    Raises:
        FileNotFoundError, ValueError: as the readers do; and for data without a split to
            train on, or to validate on where the recipe holds none out.
    """
    reader = _reader(recipe)
    splits = reader.splits(recipe)
    if splits and "train" not in splits:
        raise ValueError(
            f"{recipe.data_folder} must have a split `train`. Received: {sorted(splits)}"
        )
    train = reader.read(recipe, "train" if splits else None, None)
    names = reader.class_names(train)
    others = [name for name in (*_VALIDATION_NAMES, "test") if name in splits]
    if others:
        validation = test = reader.read(recipe, others[0], train.class_names)
        if "test" in others[1:]:
            test = reader.read(recipe, "test", train.class_names)
    else:
        train, validation = _held_out(train, recipe)
        test = validation
    data = ClassificationData(train, validation, test, names, train.multi_label)
    if reader.counts:
        _check_every_class(data, recipe)
    return data


def classification_test(recipe):
    """Returns (examples, class names) of the split alone that is tested on.

    That is the split `test`, or else the one to validate on. Of data without such splits it
    is what the recipe holds out, or, with a `validation_share` of 0, all there is.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    reader = _reader(recipe)
    splits = reader.splits(recipe)
    split = next((name for name in ("test", *_VALIDATION_NAMES) if name in splits), None)
    if split is None and recipe.validation_share:
        data = classification_data(recipe)
        return data.test, data.class_names
    examples = reader.read(recipe, split, None)
    return examples, reader.class_names(examples)


def _reader(recipe):
    reader = lookup("data set", recipe.dataset, FILE_DATASETS)
    if not recipe.data_folder:
        raise ValueError(
            f"`data_folder` must say where the data set {recipe.dataset!r} is. "
            "Received: data_folder=''"
        )
    return reader


def _checks(recipe):
    return {"invalid": recipe.invalid, "verify": recipe.verify_images}


def _folder_splits(recipe):
    folders = {each.name for each in pathlib.Path(recipe.data_folder).glob("*") if each.is_dir()}
    return folders if "train" in folders else set()


def _folder(recipe, split, class_names):
    """A folder of class folders, or with `train`, `val` and perhaps `test` above them."""
    folder = pathlib.Path(recipe.data_folder, split or "")
    return ImageFolder(folder, class_names, **_checks(recipe))


def _table(recipe, split, class_names):
    """A CSV file, perhaps with a column of splits."""
    return CsvDataset(recipe.data_folder, None, split, class_names, **_checks(recipe))


def _tfds(recipe, split, class_names):
    return TfdsClassification(recipe.data_folder, split)


FILE_DATASETS = {
    "folder": _Reader(_folder_splits, _folder),
    # Its test split comes without labels; its classes are called by words.
    "imagenet2012": _Reader(
        lambda recipe: {"train", "validation"},
        _tfds,
        lambda examples: read_class_names("imagenet-1k"),
    ),
    "csv": _Reader(lambda recipe: CsvDataset.splits(recipe.data_folder), _table, counts=True),
    "tfds": _Reader(lambda recipe: TfdsClassification.splits(recipe.data_folder), _tfds),
}


def _check_every_class(data, recipe):
    counts = zip(data.class_names, data.counts(), strict=True)
    lacking = [name for name, count in counts if not count]
    if lacking:
        raise ValueError(
            f"{recipe.data_folder} must have images of every class to train on. Received: none "
            f"of {lacking}"
        )


def _held_out(examples, recipe):
    """(to train on, held out); every class is divided in the same ratio, where each has one."""
    from sklearn.model_selection import train_test_split

    if not recipe.validation_share:
        raise ValueError(
            f"{recipe.data_folder} has no split to validate on. Give it one, `val`, or hold a "
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
    return _Chosen(examples, train), _Chosen(examples, validation)


class _Chosen:
    """A sequence's elements at some places, in their order."""

    def __init__(self, examples, places):
        self._examples = examples
        self._places = np.sort(places)
        self.multi_label = examples.multi_label

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        return self._examples[int(self._places[index])]
