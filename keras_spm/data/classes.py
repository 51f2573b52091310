"""Files with the names, and optionally the colors, of classes."""

import json
import pathlib
import re
from typing import NamedTuple

import numpy as np

from keras_spm.data.readers import check_class_names
from keras_spm.types import PathLike

CLASSES_FILES = ("classes.txt", "classes.json")


class Classes(NamedTuple):
    """Names of classes and, if they are known, (classes, 3) uint8 colors in their order."""

    names: list[str]
    colors: np.ndarray | None = None


def read_classes(path: PathLike) -> Classes:
    """Reads class names, and optionally their colors, from a text or JSON file.

    A text file has a class per line: its name, optionally with three numbers for its color
    before or after it. A JSON file has a list of names; or a mapping from names to colors, or
    from class numbers to names.

    Raises:
        ValueError: if the file is neither.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = _json_entries(json.loads(text)) if path.suffix == ".json" else _text_entries(text)
        names = check_class_names([name for name, _ in entries])
        colors = [color for _, color in entries if color is not None]
        if colors and len(colors) != len(names):
            raise ValueError("some classes have a color, and some have none")
        array = np.array(colors, "uint8").reshape(-1, 3) if colors else None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a list of classes: {error}") from error
    return Classes(names, array)


def _text_entries(text):
    """Returns [(name, color or None)]."""
    entries = []
    for line in filter(None, map(str.strip, text.splitlines())):
        color = r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})"
        before = re.fullmatch(rf"{color}[\s,]+(.+)", line)
        after = re.fullmatch(rf"(.+?)[\s,]+{color}", line)
        if before:
            *numbers, name = before.groups()
        elif after:
            name, *numbers = after.groups()
        else:
            name, numbers = line, None
        entries.append((name.strip(), numbers and list(map(int, numbers))))
    return entries


def _json_entries(contents):
    if isinstance(contents, list):
        return [(each, None) for each in contents]
    if not isinstance(contents, dict):
        raise ValueError("it must be a list or a mapping")
    if all(isinstance(value, str) for value in contents.values()):
        return [(contents[key], None) for key in sorted(contents, key=int)]
    return list(contents.items())


def find_classes(folder: PathLike) -> Classes | None:
    """Reads `classes.txt` or `classes.json` in a folder; returns `None` if there is neither."""
    paths = (pathlib.Path(folder, name) for name in CLASSES_FILES)
    path = next(filter(pathlib.Path.is_file, paths), None)
    return None if path is None else read_classes(path)


def parse_class_names(text: str) -> list[str]:
    """Returns the class names in a recipe's value: separated by commas, or the path of a file."""
    if pathlib.Path(text).suffix in (".txt", ".json"):
        return read_classes(text).names
    return check_class_names(name.strip() for name in text.split(","))
