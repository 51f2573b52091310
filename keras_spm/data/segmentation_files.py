"""Sequences of examples whose images are files, with segmentation maps."""

import contextlib
import pathlib
from collections.abc import Iterable

import numpy as np

from keras_spm.arguments import check_integer
from keras_spm.data.images import image_size, missing_files, read_index_image
from keras_spm.data.readers import InvalidAnnotations, check_invalid, report_invalid
from keras_spm.types import Example

_IGNORED = 255


class SegmentationFiles:
    """A sequence of dicts of `image`, a path, and `segmentation_map` (height, width) uint8.

    Args:
        source: name of the data set in error messages.
        pairs: list of (path of an image, path of its segmentation map).
        class_names: names in the order of class indices.
        first_class: stored value of class 0, see `to_segmentation_map`.
        invalid: `"raise"`, or `"drop"` to leave out images without a map of their size.
        invalid_annotations: {reason: [ids]} found so far; updated in place.
        label_map: optional {stored value: class index, or 255 for ignored pixels}.
        colors: optional (values, 3) uint8, the color of each value in maps that are RGB.

    Attributes:
        invalid_annotations: {reason: [names]} of dropped images.

    Raises:
        ValueError: if files are missing or maps have another size than their image, there are
            too many classes, or all maps have no values but 0 and 255, as of binary masks whose
            objects are 255.
    """

    counted = "pixels"  # By `counts`.

    def __init__(
        self,
        source: object,
        pairs: list[tuple[pathlib.Path, pathlib.Path]],
        class_names: Iterable[str],
        first_class: int = 0,
        invalid: str = "raise",
        invalid_annotations: InvalidAnnotations | None = None,
        label_map: dict[int, int] | None = None,
        colors: np.ndarray | None = None,
    ) -> None:
        check_invalid(invalid)
        self.class_names = list(class_names)
        if len(self.class_names) > _IGNORED:
            raise ValueError(
                f"`class_names` must be at most {_IGNORED} names, because maps are 8-bit and "
                f"{_IGNORED} means ignored. Received: {len(self.class_names)} names"
            )
        self.invalid_annotations = {} if invalid_annotations is None else invalid_annotations
        missing = missing_files(path for pair in pairs for path in pair)
        self._pairs = []
        for image, stored in pairs:
            reason = _invalid_pair(image, stored, missing)
            if reason is None:
                self._pairs.append((image, stored))
            else:
                self.invalid_annotations.setdefault(reason, []).append(image.name)
        report_invalid(source, self.invalid_annotations, invalid)
        self._first_class, self._colors = first_class, colors
        self._values = _lookup_table(label_map)
        if first_class == 0 and _are_binary_masks(self, len(self._pairs)):
            raise ValueError(
                f"All {len(self._pairs)} segmentation maps, such as {self._pairs[0][1]}, have no "
                f"values but 0 and {_IGNORED}, and {_IGNORED} means ignored: no object would be "
                f"trained. Read them with `label_map={{{_IGNORED}: 1}}` (`--set "
                f"label_map={_IGNORED}=1`), or write 1 for the pixels of objects."
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, stored = self._pairs[index]
        size, num_classes = image_size(image), len(self.class_names)
        values = self.read_values(index)
        segmentation_map = to_segmentation_map(values, size, num_classes, self._first_class, stored)
        return {"image": image, "segmentation_map": segmentation_map}

    def image_paths(self) -> list[pathlib.Path]:
        """Returns the path of every image."""
        return [image for image, _ in self._pairs]

    def counts(self, indices: Iterable[int]) -> np.ndarray:
        """Returns (classes,) ints, the number of pixels of each class in some maps."""
        counts = np.zeros(256, int)
        for index in indices:
            counts += np.bincount(self[index]["segmentation_map"].ravel(), minlength=256)
        return counts[: len(self.class_names)]

    def read_values(self, index: int) -> np.ndarray:
        """Returns the stored values of a map, after `label_map`."""
        return self._values[read_index_image(self._pairs[index][1], self._colors)]


def _lookup_table(label_map):
    """Returns (256,) uint8, the class of each stored value."""
    table = np.arange(256, dtype="uint8")
    for stored, label in (label_map or {}).items():
        check_integer("label_map", stored, 0, 255)
        table[stored] = check_integer("label_map", label, 0, _IGNORED)
    return table


def _invalid_pair(image, stored, missing):
    """Returns why an image and its map cannot be used, or None."""
    if image in missing:
        return "missing image file"
    if stored in missing:
        return "missing segmentation map"
    try:
        sizes = image_size(image), image_size(stored)
    except ValueError:
        return "not a readable image"
    return None if sizes[0] == sizes[1] else "segmentation map of another size than its image"


def _are_binary_masks(examples, count):
    """Whether maps have no values but 0 and 255, and 255 occurs."""
    found = set()
    for index in range(count):
        with contextlib.suppress(ValueError):  # An unreadable map: an error when it is used.
            found.update(np.unique(examples.read_values(index)).tolist())
        if found - {0, _IGNORED}:
            return False
    return _IGNORED in found


def to_segmentation_map(
    stored: np.ndarray, size: tuple[int, int], num_classes: int, first_class: int, source: object
) -> np.ndarray:
    """Converts a stored map to class indices from 0, with 255 where ignored.

    Args:
        stored: (height, width) or (height, width, 1) uint8.
        size: (height, width) of the image.
        first_class: stored value of class 0: 0, or 1 if 0 means ignored.
        source: name of the map in error messages.

    Raises:
        ValueError: if the map has another size than its image or an invalid value.
    """
    if stored.ndim == 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.shape != tuple(size):
        raise ValueError(
            f"{source} must have the size of its image, (height, width) {tuple(size)}. "
            f"Received: {stored.shape}"
        )
    segmentation_map = stored - np.uint8(first_class)  # In uint8, 0 - 1 is 255.
    labeled = segmentation_map[segmentation_map != _IGNORED]
    invalid = labeled[labeled >= num_classes]
    if invalid.size:
        raise ValueError(
            f"{source} must have values from {first_class} to {first_class + num_classes - 1}, or "
            f"{'0' if first_class else _IGNORED} for ignored pixels. "
            f"Received: {np.unique(invalid).astype(int) + first_class}"
        )
    return segmentation_map
