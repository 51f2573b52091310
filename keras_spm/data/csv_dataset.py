"""A CSV file of image paths and their labels."""

import csv
import pathlib

from keras_spm.data.image_dataset import ImageDataset
from keras_spm.registry import lookup


class CsvDataset(ImageDataset):
    """Images that a CSV file lists, with one label each or with several.

    A sequence of `ClassificationExample`s whose images are paths, in the order of the rows.
    The first row names the columns: `path`, from the folder of images, and either `label`,
    a class's name, or `labels`, any number of names with `|` between them. A column `split`
    may divide the rows into splits, such as train and validation; others are not read.

    These break rules: a row with too few or too many fields, without path or without label
    (in `labels` none is allowed), with an unknown class, a label or path that came before,
    and all that breaks the rules of `ImageFolder` in a single file. Class names that differ
    in upper and lower case alone are an error.

    Args:
        table: path of the CSV file, in UTF-8.
        images: path of the folder that paths start from; by default that of the table.
        split: str, whose rows are read, or `None` for all.
        class_names: sequence of str, the classes and their order, or `None` for all names
            in the table, sorted, whatever split they are in.
        invalid: `"raise"`, or `"drop"` to leave out what breaks a rule.
        verify: bool, whether every image is decoded once to see that it can be.

    Attributes:
        class_names: list of str; labels are places in it.
        multi_label: bool, whether there is a column `labels`; labels are then arrays.
        invalid_annotations: {rule: [ids]}, what was left out; `"row 7"` is the file's seventh line
            where no field has more than one.

    Raises:
        FileNotFoundError: where there is no such table.
        ValueError: for a file that is no such table, and an unknown split; for what breaks
            rules, counting it; when an example is asked for and not verified, for what
            cannot be read.
    """

    def __init__(
        self, table, images=None, split=None, class_names=None, invalid="raise", verify=True
    ):
        table = pathlib.Path(table)
        folder = table.parent if images is None else pathlib.Path(images)
        rows, columns = _rows(table)
        if split is not None:
            lookup("split", split, dict.fromkeys(self.splits(table)))
        several = "labels" in columns
        invalid_annotations, files, here = {}, [], set()
        earlier = set()
        for row_id, row in rows:
            if split is not None and row.get("split") != split:
                continue
            labels = _labels(row, several)
            rule = _broken(row, labels, several, earlier, class_names)
            if rule is not None:
                invalid_annotations.setdefault(rule, []).append(row_id)
                continue
            earlier.add(row["path"])
            here.update(labels)
            files.append((row_id, folder / row["path"], labels if several else labels[0]))
        if class_names is None:
            class_names = sorted({name for _, row in rows for name in _labels(row, several)})
        super().__init__(
            table,
            files,
            list(class_names),
            required=here,
            invalid_annotations=invalid_annotations,
            multi_label=several,
            invalid=invalid,
            verify=verify,
        )

    @staticmethod
    def splits(table):
        """Returns the set of a table's splits, empty without such a column."""
        rows, _ = _rows(pathlib.Path(table))
        return {row["split"] for _, row in rows if "split" in row}


def _rows(table):
    """Returns ([(id, {column: stripped field})], the columns)."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            rows = [(number, fields) for number, fields in enumerate(reader, start=2) if fields]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no CSV file in UTF-8: {error}.") from error
    if "path" not in columns or ("label" in columns) == ("labels" in columns):
        raise ValueError(
            f"{table} must have the columns `path`, and `label` or `labels`. Received: {columns}"
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"{table} must have each column once. Received: {columns}")
    return [
        (
            f"row {number}",
            # A row of another length cannot be read: it has none of the fields.
            {name: field.strip() for name, field in zip(columns, fields, strict=True)}
            if len(fields) == len(columns)
            else {},
        )
        for number, fields in rows
    ], columns


def _labels(row, several):
    text = row.get("labels" if several else "label", "")
    names = text.split("|") if several else [text]
    return tuple(name.strip() for name in names if name.strip())


def _broken(row, labels, several, earlier, class_names):
    """Returns the rule that a row breaks, or None."""
    if not row:
        return "row with too few or too many fields"
    if not row["path"]:
        return "row without path"
    if not labels and not several:
        return "row without label"
    if len(set(labels)) < len(labels):
        return "label that came before"
    if class_names is not None and not set(labels) <= set(class_names):
        return "unknown class"
    if row["path"] in earlier:
        return "path that came before"
    return None
