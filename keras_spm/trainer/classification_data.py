"""Data sets for classification by the names that recipes call them."""

import dataclasses

import numpy as np

from keras_spm.data.readers import readers_of
from keras_spm.registry import lookup
from keras_spm.trainer.data_splits import DataSplits


@dataclasses.dataclass(frozen=True)
class ClassificationData(DataSplits):
    """Splits of examples for classification.

    Attributes:
        multi_label: bool, whether an image may have several classes.
    """

    multi_label: bool

    def counts(self):
        """Returns (classes,) ints, how many images of the training split have each class."""
        labels = _labels(self.train)
        if self.multi_label:
            return labels.sum(axis=0).astype(int)
        return np.bincount(labels, minlength=len(self.class_names))


def classification_data(recipe):
    """Returns the `ClassificationData` of a `ClassificationRecipe` on files.

    Raises:
        FileNotFoundError, ValueError: as the readers do; and for data without a split to
            train on, or to validate on where the recipe holds none out.
    """
    reader = _reader(recipe)
    splits = reader.splits(recipe.data_folder)
    if "train" not in splits:
        raise ValueError(
            f"{recipe.data_folder} must have a split `train`. Received: {sorted(splits)}"
        )

    def read(split, class_names=None):
        return reader(recipe.data_folder, split, class_names, recipe.invalid, recipe.verify_images)

    train = read(splits["train"])
    names = train.class_names
    others = [splits[name] for name in ("validation", "test") if name in splits]
    if others:
        validation = test = read(others[0], names)
        if others[1:]:
            test = read(others[1], names)
    else:
        train, validation = _held_out(train, recipe)
        test = validation
    data = ClassificationData(train, validation, test, names, train.multi_label)
    if hasattr(train, "labels"):  # Known without reading the images.
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
    splits = reader.splits(recipe.data_folder)
    split = next((splits[name] for name in ("test", "validation") if name in splits), None)
    if split is None and recipe.validation_share:
        data = classification_data(recipe)
        return data.test, data.class_names
    examples = reader(recipe.data_folder, split, None, recipe.invalid, recipe.verify_images)
    return examples, examples.class_names


def _reader(recipe):
    reader = lookup("data set", recipe.dataset, readers_of("classification"))
    if not recipe.data_folder:
        raise ValueError(
            f"`data_folder` must say where the data set {recipe.dataset!r} is. "
            "Received: data_folder=''"
        )
    return reader


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
        labels = _labels(examples)
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


def _labels(examples):
    """The labels of examples as an array; many formats know them without reading the images."""
    if hasattr(examples, "labels"):
        return examples.labels
    return np.stack([examples[index]["label"] for index in range(len(examples))])


class _Chosen:
    """A sequence's elements at some places, in their order."""

    def __init__(self, examples, places):
        self._examples = examples
        self._places = np.sort(places)
        self.multi_label = examples.multi_label
        if hasattr(examples, "labels"):
            self.labels = examples.labels[self._places]

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        return self._examples[int(self._places[index])]
