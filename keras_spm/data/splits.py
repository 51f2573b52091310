"""Reads all splits of a data set, in the format that its folder has."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_spm.arguments import check_integer, check_number
from keras_spm.data.folders import all_folders, files, has_images, tree, unwrapped
from keras_spm.data.images import has_image_extension
from keras_spm.data.readers import InvalidAnnotations, Reader, readers_of
from keras_spm.registry import lookup
from keras_spm.types import PathLike

SPLITS = ("train", "validation", "test")
AUTO = "auto"
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
        class_colors: optional list of a color per class, three integers each.
        source: what was read, such as "COCO format".
        is_held_out: whether the validation split is a part of the training split on disk.
    """

    train: Sequence
    validation: Sequence
    test: Sequence | None
    class_names: list[str]
    source: str = ""
    is_held_out: bool = False
    class_colors: list[list[int]] | None = None

    @property
    def splits(self) -> dict[str, Sequence]:
        """{split: examples} of the splits that exist."""
        splits = {split: getattr(self, split) for split in SPLITS}
        return {split: examples for split, examples in splits.items() if examples is not None}

    @property
    def invalid_annotations(self) -> dict[str, InvalidAnnotations]:
        """{split: {reason: [ids]}} of annotations and files that were left out."""
        return self._reasons("invalid_annotations")

    @property
    def ignored_files(self) -> dict[str, InvalidAnnotations]:
        """{split: {reason: [names]}} of files that are not data."""
        return self._reasons("ignored_files")

    def _reasons(self, attribute):
        found = {
            split: getattr(examples, attribute, {})
            for split, examples in self.splits.items()
            if not (split == "validation" and self.is_held_out)  # Listed with `train`.
        }
        return {split: reasons for split, reasons in found.items() if reasons}

    def sizes(self) -> dict[str, int]:
        """Returns {split: number of examples}."""
        return {split: len(examples) for split, examples in self.splits.items()}


def read_classification(folder: PathLike, data_format: str = AUTO, **arguments: Any) -> DataSplits:
    """Reads all splits of labeled images.

    Args:
        folder: path of a folder in any registered format, or of a CSV file.
        data_format: name of the format; by default it is recognized.
        **arguments: `validation_share` (0.2), `seed` (0), and those of the format:
            `class_names`, `invalid`, `verify`, `allow_outside`, …; see `read_splits`.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the format is not recognized, or the data are not valid.

    Example:

    >>> data = keras_spm.data.read_classification("photos")
    >>> data.class_names, data.sizes()
    (['heron', 'stork'], {'train': 330, 'validation': 82})
    """
    return read_splits("classification", data_format, folder, **_with_share(arguments))


def read_detection(folder: PathLike, data_format: str = AUTO, **arguments: Any) -> DataSplits:
    """Reads all splits of images with objects; see `read_classification`.

    Example:

    >>> data = keras_spm.data.read_detection("masks")
    >>> data.source, data.sizes()
    ('COCO format', {'train': 677, 'validation': 171})
    >>> data.train[0]["boxes"].shape
    (3, 4)
    """
    return read_splits("detection", data_format, folder, **_with_share(arguments))


def read_instances(folder: PathLike, data_format: str = AUTO, **arguments: Any) -> DataSplits:
    """Reads all splits of images with objects and their masks; see `read_classification`.

    Objects without a mask are invalid annotations.

    Example:

    >>> data = keras_spm.data.read_instances("coco128")
    >>> data.train[0]["masks"].shape
    (8, 480, 640)
    """
    return read_splits("instances", data_format, folder, **_with_share(arguments))


def read_segmentation(folder: PathLike, data_format: str = AUTO, **arguments: Any) -> DataSplits:
    """Reads all splits of images with segmentation maps; see `read_classification`.

    Example:

    >>> data = keras_spm.data.read_segmentation("camvid")
    >>> data.train[0]["segmentation_map"].shape
    (360, 480)
    """
    return read_splits("segmentation", data_format, folder, **_with_share(arguments))


def _with_share(arguments):
    return {"validation_share": 0.2, **arguments}


def read_splits(
    task: str,
    data_format: str,
    folder: PathLike,
    validation_share: float = 0.0,
    seed: int = 0,
    **arguments: Any,
) -> DataSplits:
    """Reads all splits of a data set.

    If there is no validation split, a share of the training split is held out, stratified by
    class where that is possible. If the share is 0, the test split is used for validation, and
    there is no test split.

    Args:
        task: `"classification"`, `"detection"`, `"instances"` or `"segmentation"`.
        data_format: name of a registered reader, or `"auto"`.
        folder: path of the data set.
        validation_share: float in [0, 1).
        seed: int, of the held-out examples.
        **arguments: passed to the reader.

    Raises:
        FileNotFoundError, ValueError: by the reader; if there is no training split; if there
            is nothing to validate on; if splits have different class names; if one is empty.
    """
    check_number("validation_share", validation_share, 0, 1, allow_maximum=False)
    check_integer("seed", seed, 0)
    reader, folder, source = find_reader(task, data_format, folder)
    names = reader.splits(folder)
    if "train" not in names:
        raise ValueError(f"{folder} must have a split `train`. Received: {sorted(names)}")
    train = reader(folder, names["train"], **arguments)
    class_names, colors = train.class_names, getattr(train, "class_colors", None)
    arguments["class_names"] = class_names
    splits = {
        split: reader(folder, name, **arguments)
        for split, name in names.items()
        if split != "train"
    }
    is_held_out = "validation" not in splits and (validation_share > 0 or "test" not in splits)
    if is_held_out:
        train, splits["validation"] = _hold_out(train, folder, validation_share, seed)
    elif "validation" not in splits:
        splits["validation"] = splits.pop("test")
    validation, test = splits["validation"], splits.get("test")
    data = DataSplits(train, validation, test, class_names, source, is_held_out, colors)
    if empty := [split for split, size in data.sizes().items() if not size]:
        raise ValueError(f"{folder} must have images in every split. Received: none in {empty}")
    return data


def read_test_split(
    task: str,
    data_format: str,
    folder: PathLike,
    validation_share: float = 0.0,
    seed: int = 0,
    **arguments: Any,
) -> tuple[Sequence, list[str]]:
    """Reads the test split only.

    This is the split `test`, or else `validation`. Without either, it is the held-out share
    of the training split, or all examples if `validation_share` is 0.

    Args:
        task, data_format, folder, validation_share, seed, **arguments: as in `read_splits`.

    Returns:
        (examples, class names)
    """
    reader, folder, _ = find_reader(task, data_format, folder)
    names = reader.splits(folder)
    split = next((split for split in ("test", "validation") if split in names), None)
    if split is None and validation_share:
        data = read_splits(task, reader.name, folder, validation_share, seed, **arguments)
        return data.validation, data.class_names
    examples = reader(folder, names.get(split or "train"), **arguments)
    return examples, examples.class_names


def find_reader(task: str, data_format: str, folder: PathLike) -> tuple[Reader, pathlib.Path, str]:
    """Finds the reader of a data set.

    Returns:
        (reader, the folder or the folder inside that has the format, what the format is called)

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the format is unknown, not recognized, or could be several.
    """
    if not folder:
        raise ValueError(
            f"`data_folder` must be the path of the data set. Received: data_folder={folder!r}"
        )
    folder, readers = pathlib.Path(folder), readers_of(task)
    if data_format != AUTO:
        reader = lookup("data format", data_format, {**dict.fromkeys([AUTO]), **readers})
        return reader, folder, f"{data_format} format"
    if not folder.exists():
        raise FileNotFoundError(f"There is no file or folder {folder}.")
    for is_generic in (False, True):
        for candidate in unwrapped(folder):
            found = {
                name: source
                for name, reader in readers.items()
                if reader.is_generic == is_generic
                and (source := reader.recognize(candidate)) is not None
            }
            if len(found) > 1:
                raise ValueError(
                    f"{candidate} could have several formats: {', '.join(found)}. Choose one with "
                    "`data_format`, or `--data-format`."
                )
            for name, source in found.items():
                return readers[name], candidate, source
    raise ValueError(_unrecognized(task, folder, readers))


def _unrecognized(task, folder, readers):
    """Returns what was expected, what is there, and the layout that is most like it."""
    layouts = {name: reader.layout for name, reader in readers.items() if reader.layout}
    closest = max(layouts, key=lambda name: _likeness(folder, layouts[name]))
    lines = "\n".join(f"  {pattern}" for pattern in layouts[closest])
    return (
        f"{folder} has no known format of {task} data: {', '.join(layouts)}. It contains:\n"
        f"{tree(folder)}\nThe closest format is {closest!r}, for example:\n{lines}"
    )


def _likeness(folder, layout):
    """Returns the share of a layout's folders and extensions that a folder has."""
    folders = all_folders(folder)
    names = {each.name.lower() for each in folders}
    extensions = {each.suffix.lower() for inner in folders for each in files(inner)}
    is_image = any(map(has_images, folders))
    points = []
    for pattern in map(pathlib.PurePath, layout):
        points += [part.lower() in names for part in pattern.parent.parts]
        known = has_image_extension(pattern) and is_image
        points.append(known or pattern.suffix.lower() in extensions)
    return sum(points) / len(points)


def _hold_out(examples, folder, share, seed):
    """Returns (training examples, held-out examples)."""
    from sklearn.model_selection import train_test_split

    if not share:
        raise ValueError(
            f"{folder} has no validation split. Add one, `val`, or hold out a share of the "
            "training split with `validation_share`. Received: validation_share=0.0"
        )
    indices, strata = np.arange(len(examples)), _strata(examples)
    try:
        if strata is not None and min(np.unique(strata, return_counts=True)[1]) < 2:
            strata = None  # A class with one image cannot be in both.
        train, validation = train_test_split(
            indices, test_size=share, stratify=strata, random_state=seed
        )
    except ValueError as error:
        raise ValueError(
            f"{folder} cannot be divided by `validation_share`: {error} "
            f"Received: validation_share={share}"
        ) from error
    return Subset(examples, train), Subset(examples, validation)


def _strata(examples):
    """Returns a class for each example to stratify by, or None."""
    if hasattr(examples, "strata"):
        return examples.strata()
    return None if getattr(examples, "multi_label", True) else read_labels(examples)


def read_labels(examples: Sequence) -> np.ndarray:
    """Returns the labels of classification examples, (examples,) or (examples, classes)."""
    if hasattr(examples, "labels"):  # Known without reading the images.
        return examples.labels
    return np.stack([examples[index]["label"] for index in range(len(examples))])


class Subset:
    """The elements of a sequence at some indices, in ascending order.

    Attributes:
        examples: the sequence.
        indices: (count,) ints, ascending.
    """

    def __init__(self, examples: Sequence, indices: np.ndarray) -> None:
        self.examples = examples
        self.indices = np.sort(indices)
        if hasattr(examples, "labels"):
            self.labels = examples.labels[self.indices]

    def __getattr__(self, name: str) -> Any:
        if name == "examples":  # Of a copy that has no attributes yet.
            raise AttributeError(name)
        return getattr(self.examples, name)  # Such as `class_names` and `multi_label`.

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.examples[int(self.indices[index])]
