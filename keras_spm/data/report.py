"""The report of a data set: images, classes, sizes, and what was left out."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_spm.data.images import image_size
from keras_spm.data.splits import DataSplits, Subset

_SIZES = 1000  # Images whose size is read.
_MAPS = 200  # Segmentation maps whose pixels are counted.
_LISTED = 5  # Ids of a reason in the text.
_CLASSES = 40  # Rows of classes in the text.


def describe_data(data: DataSplits) -> dict[str, Any]:
    """Returns the report of a data set, JSON-able.

    Args:
        data: splits, as `keras_spm.data.read_detection` and its siblings return them.

    Returns:
        A dict of `source`, what was read; `class_names`; `counted`, what is counted per class:
        "images", "boxes" or "pixels"; `held_out`, the paths of the images that are the
        validation split, if it is a part of the training split on disk; and `splits`: {split:
        dict}, of `images`, their number; `classes`, {name: count}; `counted_images`, the number
        of images in which pixels are counted; `sizes`, the smallest, median and largest [height,
        width]; `dropped` and `ignored`, {reason: [ids]}. What a format does not know is left out.

    Example:

    >>> report = describe_data(keras_spm.data.read_detection("masks"))
    >>> report["splits"]["train"]["classes"]
    {'without mask': 512, 'with mask': 2640}
    """
    left_out = {"dropped": data.invalid_annotations, "ignored": data.ignored_files}
    report = {
        "source": data.source,
        "class_names": list(data.class_names),
        "counted": getattr(data.train, "counted", None),
        "splits": {
            split: {
                "images": len(examples),
                **_counts(examples),
                **_sizes(examples),
                **{kind: found[split] for kind, found in left_out.items() if split in found},
            }
            for split, examples in data.splits.items()
        },
    }
    if data.is_held_out and hasattr(data.validation, "image_paths"):
        report["held_out"] = list(map(os.fspath, _paths(data.validation)))
    return report


def _counts(examples):
    if not hasattr(examples, "counts"):
        return {}
    indices, report = _indices(examples), {}
    if examples.counted == "pixels" and len(indices) > _MAPS:
        indices = _evenly_spaced(indices, _MAPS)
        report["counted_images"] = len(indices)
    counts = examples.counts(indices).tolist()
    return {"classes": dict(zip(examples.class_names, counts, strict=True)), **report}


def _sizes(examples):
    if not hasattr(examples, "image_paths") or not len(examples):
        return {}
    sizes = [image_size(path) for path in _evenly_spaced(_paths(examples), _SIZES)]
    sizes.sort(key=lambda size: size[0] * size[1])
    chosen = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
    names = ("smallest", "median", "largest")
    return {"sizes": {name: list(size) for name, size in zip(names, chosen, strict=True)}}


def _indices(examples):
    return examples.indices if isinstance(examples, Subset) else np.arange(len(examples))


def _paths(examples):
    paths = examples.image_paths()
    return [paths[index] for index in _indices(examples)]


def _evenly_spaced(values: Sequence, count: int) -> list:
    if len(values) <= count:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, count).astype(int)]


# === Text ===


def summary(report: dict[str, Any]) -> str:
    """Returns the report in one line.

    Example:

    >>> summary(report)
    'COCO format: 677 + 171 images, 3 classes, 4,021 boxes'
    """
    images = " + ".join(f"{each['images']:,}" for each in report["splits"].values())
    parts = [f"{images} images", f"{len(report['class_names']):,} classes"]
    if report["counted"] == "boxes":
        boxes = sum(sum(each["classes"].values()) for each in report["splits"].values())
        parts.append(f"{boxes:,} boxes")
    return f"{report['source']}: {', '.join(parts)}"


def report_text(report: dict[str, Any]) -> str:
    """Returns the report as text of several lines."""
    lines = [summary(report)]
    for split, each in report["splits"].items():
        held_out = ", held out of train" * (split == "validation" and "held_out" in report)
        lines.append(f"{split:<12}{each['images']:>9,} images{_size_text(each)}{held_out}")
    lines += _class_lines(report)
    for split, each in report["splits"].items():
        for kind in ("dropped", "ignored"):
            for reason, ids in each.get(kind, {}).items():
                listed = ", ".join(map(str, ids[:_LISTED])) + ", …" * (len(ids) > _LISTED)
                lines.append(f"{kind} from {split}: {len(ids):,} × {reason} ({listed})")
    return "\n".join(lines)


def _size_text(split):
    if "sizes" not in split:
        return ""
    small, _, large = ("×".join(map(str, size)) for size in split["sizes"].values())
    return f" of {small} pixels" if small == large else f" of {small} to {large} pixels"


def _class_lines(report):
    splits = {split: each for split, each in report["splits"].items() if "classes" in each}
    if not splits:
        return []
    names = report["class_names"]
    width = max(map(len, (*names[:_CLASSES], "class")))
    lines = ["".join([f"{'class':<{width}}", *(f"{split:>15}" for split in splits)])]
    if report["counted"] != "images":
        lines[0] += f"   ({report['counted']})"
    for name in names[:_CLASSES]:
        cells = []
        for each in splits.values():
            count, total = each["classes"][name], sum(each["classes"].values())
            is_share = report["counted"] == "pixels"
            cells.append(f"{count / max(total, 1):>15.2%}" if is_share else f"{count:>15,}")
        lines.append("".join([f"{name:<{width}}", *cells]))
    if len(names) > _CLASSES:
        lines.append(f"… {len(names) - _CLASSES:,} more classes")
    return lines
