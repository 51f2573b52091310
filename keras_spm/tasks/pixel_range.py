"""Checks the pixel range of the first images of a data set."""

from typing import Any

import numpy as np

_CHECKED_IMAGES = 8


def looks_scaled(data: Any) -> bool:
    """Whether the first images are floats with no pixel above 1 and not all black.

    Iterators whose first element cannot be read without consuming it count as not scaled.
    """
    images = _first_images(data)
    if not hasattr(images, "shape"):
        return False
    if hasattr(images, "detach"):  # A torch tensor, perhaps on a GPU.
        images = images.detach().cpu()
    images = np.asarray(images)
    return images.dtype.kind == "f" and images.size > 0 and 0 < images.max() <= 1


def _first_images(data):
    if hasattr(data, "shape"):
        return data[:_CHECKED_IMAGES]
    if hasattr(data, "element_spec") and hasattr(data, "take"):  # tf.data.Dataset
        return _inputs(next(iter(data.take(1)), None))
    if hasattr(data, "collate_fn"):  # torch DataLoader
        data = data.dataset
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and len(data):
        return _inputs(data[0])
    return None


def _inputs(batch):
    return batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
