"""Sizes of maps that are divided into patches or windows."""

from keras import ops

from keras_spm import backend
from keras_spm.types import Tensor


def ceil_divide(size: int | Tensor | None, divisor: int) -> int | Tensor | None:
    """Returns ceil(size / divisor) of a static size, an unknown size (None) or a tensor."""
    return None if size is None else (size - 1) // divisor + 1


def is_multiple(maps: Tensor, multiple: int) -> bool:
    """Returns whether height and width of (batch, height, width, channels) are known multiples."""
    return all(size is not None and size % multiple == 0 for size in maps.shape[1:3])


def pad_to_multiple(maps: Tensor, multiple: int) -> Tensor:
    """Pads maps with zeros at the bottom and right.

    Args:
        maps: (batch, height, width, channels). Height and width may be unknown.
        multiple: int. Height and width of the result are multiples of it.

    Returns:
        (batch, ceil(height / multiple) * multiple, ceil(width / multiple) * multiple,
        channels)
    """
    if is_multiple(maps, multiple):
        return maps
    _, height, width, _ = ops.shape(maps)
    return backend.pad(maps, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))
