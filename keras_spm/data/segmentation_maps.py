"""Label maps checked against their images, and the sequence of both."""

import numpy as np

from keras_spm.data.examples import SegmentationExample
from keras_spm.data.image_files import image_size
from keras_spm.data.image_files import missing_files
from keras_spm.data.image_files import read_label_map

_UNCOUNTED = 255
_NAMED = 5  # Missing files that an error lists.


def to_segmentation_map(stored, size, num_classes, first_class, source):
    """Returns a stored label map as classes from 0, and 255 for what does not count.

    Args:
        stored: (height, width) uint8.
        size: (height, width) of its image.
        num_classes: int.
        first_class: the stored value of class 0: 0, or 1 where 0 does not count.
        source: what errors name.

    Raises:
        ValueError: for a map of another size than its image, and for a value that is no
            class.
    """
    if stored.shape != tuple(size):
        raise ValueError(
            f"{source} must be as large as its image, (height, width) {tuple(size)}. "
            f"Received: {stored.shape}"
        )
    segmentation_map = stored - np.uint8(first_class)  # In uint8, 0 - 1 is 255.
    counted = segmentation_map[segmentation_map != _UNCOUNTED]
    beyond = counted[counted >= num_classes]
    if beyond.size:
        raise ValueError(
            f"{source} must hold classes from {first_class} to "
            f"{first_class + num_classes - 1}, or {'0' if first_class else _UNCOUNTED} for what "
            f"does not count. Received: {np.unique(beyond).astype(int) + first_class}"
        )
    return segmentation_map


class SegmentationMapFiles:
    """A sequence of `SegmentationExample`s from files; the images are paths.

    Args:
        pairs: list of (path of an image, path of its label map).
        class_names: list of str.
        first_class: the stored value of class 0, see `to_segmentation_map`.

    Raises:
        FileNotFoundError: where a file of a pair is missing.
    """

    def __init__(self, pairs, class_names, first_class=0):
        missing = sorted(missing_files([path for pair in pairs for path in pair]))
        if missing:
            listed = ", ".join(map(str, missing[:_NAMED])) + ", …" * (len(missing) > _NAMED)
            raise FileNotFoundError(f"{len(missing)} files are missing: {listed}")
        self.class_names = class_names
        self._pairs = pairs
        self._first_class = first_class

    def __len__(self):
        return len(self._pairs)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, labels = self._pairs[index]
        segmentation_map = to_segmentation_map(
            read_label_map(labels),
            image_size(image),
            len(self.class_names),
            self._first_class,
            labels,
        )
        return SegmentationExample(image, segmentation_map)
