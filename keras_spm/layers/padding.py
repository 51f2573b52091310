"""Padding of maps to whole patches or windows."""

from keras import ops

from keras_spm import backend


def is_multiple(maps, multiple):
    """Whether height and width of (batch, height, width, channels) are known multiples."""
    return all(size is not None and size % multiple == 0 for size in maps.shape[1:3])


def pad_to_multiple(maps, multiple):
    """Appends zero rows and columns, so that whole patches cover the map.

    Args:
        maps: (batch, height, width, channels), sizes known or not.
        multiple: int, what height and width become multiples of.

    Returns:
        (batch, ceil(height / multiple) * multiple, ceil(width / multiple) * multiple,
        channels)
    """
    if is_multiple(maps, multiple):
        return maps
    _, height, width, _ = ops.shape(maps)
    return backend.pad(maps, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))
