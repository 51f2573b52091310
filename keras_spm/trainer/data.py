"""Splits of data sets on disk, by the names in recipes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_spm.data.readers import readers_of
from keras_spm.registry import lookup

SPLITS = ("train", "validation", "test")
NO_TEST_SPLIT = (
    "There is no test split: the metrics are those of the validation split, which selected the "
    "epoch."
)


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """Examples of each split, and the class names.

    Attributes:
        train, validation, test: sequences of examples. `test` is None if no split is left that
            does not select the best epoch.
        class_names: list of str.
    """

    train: Sequence
    validation: Sequence
    test: Sequence | None
    class_names: list[str]

    def sizes(self) -> dict[str, int]:
        """Returns {split: number of examples}."""
        splits = {split: getattr(self, split) for split in SPLITS}
        return {name: len(split) for name, split in splits.items() if split is not None}


def read_splits(
    task: str,
    dataset: str,
    folder: str,
    validation_share: float = 0.0,
    seed: int = 0,
    **arguments: Any,
) -> DataSplits:
    """Reads all splits of a data set.

    If there is no validation split, a share of the training split is held out. For single-label
    classification the held-out share is the same in every class. If the share is 0, the test
    split is used for validation, and there is no test split.

    Args:
        task: `"classification"`, `"detection"` or `"segmentation"`.
        dataset: name of a registered reader.
        folder: path of the data set.
        validation_share: float in [0, 1).
        seed: int, of the held-out examples.
        **arguments: passed to the reader.

    Raises:
        FileNotFoundError, ValueError: by the reader; if there is no training split; if there
            is nothing to validate on; if splits have different class names; if one is empty.
    """
    reader = _reader(task, dataset, folder)
    names = reader.splits(folder)
    if "train" not in names:
        raise ValueError(f"{folder} must have a split `train`. Received: {sorted(names)}")
    train = reader(folder, names["train"], **arguments)
    class_names = train.class_names
    splits = {
        split: reader(folder, name, class_names, **arguments)
        for split, name in names.items()
        if split != "train"
    }
    if "validation" not in splits and (validation_share or "test" not in splits):
        train, splits["validation"] = _hold_out(train, folder, validation_share, seed)
    elif "validation" not in splits:
        splits["validation"] = splits.pop("test")
    data = DataSplits(train, splits["validation"], splits.get("test"), class_names)
    if empty := [split for split, size in data.sizes().items() if not size]:
        raise ValueError(f"{folder} must have images in every split. Received: none in {empty}")
    return data


def read_test_split(
    task: str,
    dataset: str,
    folder: str,
    validation_share: float = 0.0,
    seed: int = 0,
    **arguments: Any,
) -> tuple[Sequence, list[str]]:
    """Reads the test split only.

    This is the split `test`, or else `validation`. Without either, it is the held-out share
    of the training split, or all examples if `validation_share` is 0.

    Args:
        task, dataset, folder, validation_share, seed, **arguments: as in `read_splits`.

    Returns:
        (examples, class names)
    """
    reader = _reader(task, dataset, folder)
    names = reader.splits(folder)
    split = next((split for split in ("test", "validation") if split in names), None)
    if split is None and validation_share:
        data = read_splits(task, dataset, folder, validation_share, seed, **arguments)
        return data.validation, data.class_names
    examples = reader(folder, names.get(split or "train"), **arguments)
    return examples, examples.class_names


def _reader(task, dataset, folder):
    reader = lookup("data set", dataset, readers_of(task))
    if not folder:
        raise ValueError(
            f"`data_folder` must be the path of the data set {dataset!r}. "
            f"Received: data_folder={folder!r}"
        )
    return reader


def _hold_out(examples, folder, share, seed):
    """Returns (training examples, held-out examples)."""
    from sklearn.model_selection import train_test_split

    if not share:
        raise ValueError(
            f"{folder} has no validation split. Add one, `val`, or hold out a share of the "
            "training split with `validation_share`. Received: validation_share=0.0"
        )
    labels = None if getattr(examples, "multi_label", True) else read_labels(examples)
    try:
        train, validation = train_test_split(
            np.arange(len(examples)), test_size=share, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"{folder} cannot be divided by `validation_share`: {error} "
            f"Received: validation_share={share}"
        ) from error
    return _Subset(examples, train), _Subset(examples, validation)


def read_labels(examples: Sequence) -> np.ndarray:
    """Returns the labels of classification examples, (examples,) or (examples, classes)."""
    if hasattr(examples, "labels"):  # Known without reading the images.
        return examples.labels
    return np.stack([examples[index]["label"] for index in range(len(examples))])


class _Subset:
    """The elements of a sequence at some indices, in ascending order."""

    def __init__(self, examples, indices):
        self._examples = examples
        self._indices = np.sort(indices)
        if hasattr(examples, "labels"):
            self.labels = examples.labels[self._indices]

    def __getattr__(self, name):
        return getattr(self._examples, name)  # Such as `class_names` and `multi_label`.

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return self._examples[int(self._indices[index])]
