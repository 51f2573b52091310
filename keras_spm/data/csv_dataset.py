"""Labeled images listed in a CSV file."""

import csv
import pathlib
from collections.abc import Sequence

from keras_spm.data.folders import files, find_images, split_of
from keras_spm.data.image_folder import LabeledFiles
from keras_spm.data.readers import check_class_names, find_splits, is_outside, register_reader
from keras_spm.registry import lookup
from keras_spm.types import PathLike


class CsvDataset(LabeledFiles):
    """Images that a CSV file lists, with one label or several per image.

    A sequence of dicts of `image`, a path, and `label`, an int or with several labels
    (classes,) float32 of 0 and 1, in the order of the rows. The first row names the columns:
    `path` (or `file`, `filename`, `image`), relative to the folder of images; either `label` (or
    `class`, `category`), a class name, or `labels`, any number of names separated by `|`; and
    optionally `split`. Other columns are ignored.

    Invalid are: a row with a wrong number of fields, without a path or without a label (an
    empty `labels` is allowed), with an unknown class, a duplicate label, a duplicate path or a
    path outside of the folder of images, and images that are invalid for `ImageFolder`.

    Args:
        table: path of the CSV file, in UTF-8.
        images: folder of the images; by default the folder of the table, or the one inside it
            in which most of them are.
        split: the split to read, or `None` for all rows.
        class_names: the classes in the order of labels, or `None` for all names in the table,
            sorted, regardless of their split.
        invalid: `"raise"`, or `"drop"` to leave out invalid rows.
        verify: whether every image is decoded once to check it.
        allow_outside: whether paths may lead out of the folder of images: absolute paths, and
            those with `..`. Only for tables that you trust.

    Attributes:
        class_names: list of str.
        multi_label: bool, whether the table has a column `labels`.
        invalid_annotations: {reason: [ids]} of dropped rows; `"row 7"` is the seventh line of
            the file if no field contains a line break.

    Raises:
        FileNotFoundError: if the table does not exist.
        ValueError: if the file is not such a table, the split is unknown, class names differ
            only in case, or rows are invalid and not dropped.
    """

    def __init__(
        self,
        table: PathLike,
        images: PathLike | None = None,
        split: str | None = None,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
        verify: bool = True,
        allow_outside: bool = False,
    ) -> None:
        if class_names is not None:
            class_names = check_class_names(class_names)
        table = pathlib.Path(table)
        rows, columns = _rows(table)
        if images is None:
            names = [row["path"] for _, row in rows if row.get("path")]
            safe = [name for name in names if not is_outside(table.parent, name)]
            images = find_images(table.parent, safe, split_of(table.stem))
        folder = pathlib.Path(images)
        if split is not None:
            lookup("split", split, dict.fromkeys(sorted(_split_names(rows))))
        multi_label = "labels" in columns
        invalid_annotations, files = {}, []
        paths, required = set(), set()
        for row_id, row in rows:
            if split is not None and row.get("split") != split:
                continue
            labels = _labels(row, multi_label)
            reason = _invalid_reason(row, labels, multi_label, paths, class_names)
            if reason is None and not allow_outside and is_outside(folder, row["path"]):
                reason = "path outside of the folder, see `allow_outside`"
            if reason is not None:
                invalid_annotations.setdefault(reason, []).append(row_id)
                continue
            paths.add(pathlib.PurePath(row["path"]))
            required.update(labels)
            files.append((row_id, folder / row["path"], labels if multi_label else labels[0]))
        if class_names is None:
            class_names = sorted({name for _, row in rows for name in _labels(row, multi_label)})
        super().__init__(
            table,
            files,
            class_names,
            required=required,
            invalid_annotations=invalid_annotations,
            multi_label=multi_label,
            invalid=invalid,
            verify=verify,
        )


# Names of columns, in small letters, by their meaning.
_COLUMNS = {
    "path": ("path", "image_path", "filepath", "file", "filename", "file_name", "image"),
    "label": ("label", "class", "category", "class_name"),
    "labels": ("labels", "classes", "tags"),
    "split": ("split", "subset"),
}


def _csv_splits(folder):
    """Splits are tables in a folder, such as `train.csv`, or the column of one table."""
    tables = _tables(pathlib.Path(folder))
    if len(tables) > 1:
        paths = {table.stem: str(table) for table in tables}
        return {split: paths[name] for split, name in find_splits(paths).items()}
    names = _split_names(_rows(tables[0] if tables else pathlib.Path(folder))[0])
    return find_splits(names) if names else {"train": None}


def _tables(folder):
    """Returns the CSV files with labels, of a folder or the file itself."""
    candidates = [folder] if folder.is_file() else files(folder, ".csv")
    return [path for path in candidates if path.suffix.lower() == ".csv" and _has_labels(path)]


def _has_labels(path):
    try:
        _, columns = _rows(path)
    except ValueError:
        return False
    return "path" in columns


def _recognize(folder):
    tables = _tables(folder)
    is_clear = len(tables) == 1 or "train" in find_splits(path.stem for path in tables)
    return "CSV file" if tables and is_clear else None


@register_reader(
    "classification",
    "csv",
    _csv_splits,
    options=("allow_outside",),
    layout=("labels.csv", "*.jpg"),
    recognize=_recognize,
)
def _read_csv(folder, split, class_names, invalid, verify, allow_outside=False):
    table = pathlib.Path(folder)
    if split is not None and split.endswith(".csv"):
        table, split = pathlib.Path(split), None
    elif table.is_dir():
        (table,) = _tables(table)
    return CsvDataset(table, None, split, class_names, invalid, verify, allow_outside)


def _split_names(rows):
    return {row["split"] for _, row in rows if "split" in row}


def _rows(table):
    """Returns ([(id, {column: stripped field})], the columns)."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            columns = [_meaning(name.strip()) for name in next(reader, [])]
            rows = [(f"row {number}", row) for number, row in enumerate(reader, start=2) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is not a CSV file in UTF-8: {error}.") from error
    if "path" not in columns or ("label" in columns) == ("labels" in columns):
        raise ValueError(
            f"{table} must have the columns `path`, and `label` or `labels`. Received: {columns}"
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"{table} must not have duplicate columns. Received: {columns}")
    for index, (row_id, fields) in enumerate(rows):
        # Rows with a wrong number of fields are invalid; they get no fields.
        complete = len(fields) == len(columns)
        named = zip(columns, map(str.strip, fields), strict=True) if complete else ()
        rows[index] = row_id, dict(named)
    return rows, columns


def _meaning(column):
    """Returns the usual name of a column, such as "path" for "filename"."""
    meanings = (key for key, names in _COLUMNS.items() if column.lower() in names)
    return next(meanings, column)


def _labels(row, multi_label):
    text = row.get("labels" if multi_label else "label", "")
    names = text.split("|") if multi_label else [text]
    return tuple(name.strip() for name in names if name.strip())


def _invalid_reason(row, labels, multi_label, paths, class_names):
    if not row:
        return "row with a wrong number of fields"
    if not row["path"]:
        return "row without a path"
    if not labels and not multi_label:
        return "row without a label"
    if len(set(labels)) < len(labels):
        return "duplicate label"
    if class_names is not None and not set(labels) <= set(class_names):
        return "unknown class"
    if pathlib.PurePath(row["path"]) in paths:
        return "duplicate path"
    return None
