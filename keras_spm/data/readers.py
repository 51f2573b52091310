"""Registration of data formats, and the report of invalid annotations."""

import functools
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

from keras_spm.data.folders import SPLIT_WORDS, split_of
from keras_spm.registry import READERS
from keras_spm.types import Example, PathLike

INVALID_CHOICES = ("raise", "drop")
_LISTED = 5  # Ids per reason in an error message.

Splits: TypeAlias = dict[str, str | None]
InvalidAnnotations: TypeAlias = dict[str, list]


class Reader:
    """A registered data format; see `register_reader`."""

    def __init__(
        self,
        read: Callable,
        name: str,
        splits: Splits | Callable[[PathLike], Splits],
        invalid: str = "raise",
        options: Collection[str] = (),
        layout: Sequence[str] = (),
        recognize: Callable[[pathlib.Path], str | None] | None = None,
        is_generic: bool = False,
    ) -> None:
        functools.update_wrapper(self, read)
        self._read = read
        self._splits = splits
        self._recognize = recognize
        self.name = name
        self.invalid = invalid
        self.options = tuple(options)
        self.layout = tuple(layout)
        self.is_generic = is_generic

    def splits(self, folder: PathLike) -> Splits:
        """Returns {"train", "validation" or "test": name in this format, or None for all}."""
        return self._splits(folder) if callable(self._splits) else dict(self._splits)

    def recognize(self, folder: pathlib.Path) -> str | None:
        """Returns what the format is called if a folder has it, else `None`."""
        return None if self._recognize is None else self._recognize(folder)

    def __call__(
        self,
        folder: PathLike,
        split: str | None,
        class_names: Sequence[str] | None = None,
        invalid: str | None = None,
        verify: bool = True,
        **options: Any,
    ) -> Sequence[Example]:
        """Reads a split.

        Args:
            folder: path of the data, a folder or a file.
            split: a value of `splits(folder)`.
            class_names: classes that the split must have, in the order of labels; optional.
            invalid: `"raise"`, or `"drop"` to leave out invalid annotations and files; `None`
                for the default of the format.
            verify: whether the reader may decode all images to check them.
            **options: further arguments of the format.

        Raises:
            FileNotFoundError: if the data do not exist.
            ValueError: if the data are not of this format, are invalid, or have other
                classes than `class_names`; or for an option that the format does not have.
        """
        for option in options:
            if option not in self.options:
                known = ", ".join(f"`{each}`" for each in self.options) or "none"
                raise ValueError(
                    f"`{option}` is not an option of the data format {self.name!r}, which has "
                    f"{known}. Received: {option}={options[option]!r}"
                )
        invalid = invalid or self.invalid
        examples = self._read(folder, split, class_names, invalid, verify, **options)
        if class_names is not None and list(examples.class_names) != list(class_names):
            raise ValueError(
                f"{folder}: the split {split!r} must have the classes {list(class_names)}. "
                f"Received: {list(examples.class_names)}"
            )
        return examples


def register_reader(
    task: str,
    name: str,
    splits: Splits | Callable[[PathLike], Splits],
    invalid: str = "raise",
    options: Collection[str] = (),
    layout: Sequence[str] = (),
    recognize: Callable[[pathlib.Path], str | None] | None = None,
    is_generic: bool = False,
    has_masks: bool = False,
) -> Callable[[Callable], Callable]:
    """Returns a decorator that registers a function that reads a data format.

    The function takes (folder, split, class_names, invalid, verify, **options), see `Reader`.
    It returns a sequence of examples with the attributes `class_names`; for classification
    `multi_label`; and, if annotations can be invalid, `invalid_annotations`.

    Args:
        task: `"classification"`, `"detection"`, `"instances"` or `"segmentation"`.
        name: name of the format in recipes.
        splits: {"train", "validation" or "test": name in this format}, or a function of the
            folder that returns it.
        invalid: default treatment of invalid annotations, `"raise"` or `"drop"`.
        options: names of further arguments of the function, all optional.
        layout: typical paths in such a folder, such as `"images/*.jpg"`, for error messages.
        recognize: function of a folder that returns what the format is called, such as
            `"COCO format"`, if the folder has this format, else `None`.
        is_generic: whether the format is only considered if no other is recognized.
        has_masks: whether the function takes `masks=True`, for examples with masks. It is then
            also registered for the task `"instances"`.

    Example:

    >>> @register_reader("detection", "my_format", {"train": "train", "validation": "val"})
    ... def read_my_format(folder, split, class_names, invalid, verify):
    ...     return MyDetection(folder, split)
    """

    def register(read):
        tasks = {task: read}
        if has_masks:
            tasks["instances"] = functools.partial(read, masks=True)
        for each, function in tasks.items():
            reader = Reader(function, name, splits, invalid, options, layout, recognize, is_generic)
            READERS.register(f"{each}/{name}", reader)
        return read

    return register


def readers_of(task: str) -> dict[str, Reader]:
    """Returns {name: reader} of a task's registered formats."""
    pairs = ((*key.split("/", 1), reader) for key, reader in READERS.items())
    return {name: reader for kind, name, reader in pairs if kind == task}


def find_splits(names: Iterable[str]) -> Splits:
    """Returns the splits among some names; see `Reader.splits`.

    Raises:
        ValueError: if several names say the same split, and none is just a word for it.
    """
    found: dict[str, list[str]] = {split: [] for split in SPLIT_WORDS.values()}
    for name in names:
        if (split := split_of(name)) is not None:
            found[split].append(name)
    splits = {}
    for split, candidates in found.items():
        exact = [name for word in SPLIT_WORDS for name in candidates if name.lower() == word]
        if len(candidates) > 1 and not exact:
            raise ValueError(f"The split {split!r} could be any of {sorted(candidates)}.")
        if candidates:
            splits[split] = (exact or candidates)[0]
    return splits


class InvalidAnnotation(Exception):  # noqa: N818
    """An annotation is invalid; the message is the reason."""


def check_invalid(invalid: str) -> None:
    """Raises a `ValueError` if `invalid` is neither `"raise"` nor `"drop"`."""
    if invalid not in INVALID_CHOICES:
        raise ValueError(
            f"`invalid` must be one of {INVALID_CHOICES}. Received: invalid={invalid!r}"
        )


def check_class_names(class_names: Iterable[str]) -> list[str]:
    """Returns a list of class names; a `ValueError` unless they are distinct, non-empty strings."""
    names = [] if isinstance(class_names, str) else list(class_names)
    strings = all(isinstance(name, str) and name for name in names)
    if not names or not strings or len(set(names)) < len(names):
        raise ValueError(
            "`class_names` must be distinct, non-empty strings, one per class. "
            f"Received: class_names={class_names!r}"
        )
    return names


def is_outside(folder: PathLike, name: str) -> bool:
    """Returns whether a path, relative to a folder or absolute, may be outside of the folder."""
    path = pathlib.Path(name)
    if path.is_absolute():
        return not path.is_relative_to(os.path.abspath(folder)) or ".." in path.parts
    return not path.parts or path.anchor != "" or ".." in path.parts


def read_annotations(
    annotations: Iterable[tuple], read: Callable, invalid_annotations: InvalidAnnotations
) -> list:
    """Applies `read` to the values of (id, annotation); collects ids of invalid ones."""
    objects = []
    for annotation_id, annotation in annotations:
        try:
            objects.append(read(annotation))
        except InvalidAnnotation as error:
            invalid_annotations.setdefault(str(error), []).append(annotation_id)
    return objects


def report_invalid(source: object, invalid_annotations: InvalidAnnotations, invalid: str) -> None:
    """Raises a `ValueError` that lists invalid annotations, unless `invalid` is `"drop"`."""
    if not invalid_annotations or invalid == "drop":
        return
    reasons = [
        f"{len(ids)} × {reason} ({', '.join(map(str, ids[:_LISTED]))}"
        f"{', …' * (len(ids) > _LISTED)})"
        for reason, ids in invalid_annotations.items()
    ]
    raise ValueError(
        f"{source} has invalid annotations, listed with their first ids: {'; '.join(reasons)}. "
        'Fix them, or drop them with `invalid="drop"`.'
    )
