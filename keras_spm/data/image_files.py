"""Sizes of image files and label maps in them, and which files there are."""

import contextlib

import numpy as np

_ORIENTATION = 0x0112  # The Exif tag.
_ON_ITS_SIDE = (5, 6, 7, 8)


def image_size(path):
    """Returns the (height, width) that `read_image` gives, without decoding the image.

    Args:
        path: of an image file.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image.
    """
    with _opened(path) as image:
        turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
        return image.size if turned else image.size[::-1]


def read_label_map(path):
    """Returns the values that an 8-bit image with a palette or in grey holds.

    Args:
        path: of an image file.

    Returns:
        (height, width) uint8; with a palette the places in it, not its colours.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image, and for another kind of image.
    """
    with _opened(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"not 8 bits a pixel, with a palette or grey, but {image.mode}")
        return np.array(image)


def missing_files(paths):
    """Returns the set of those that are not there; each folder is listed once."""
    folders = {path.parent for path in paths}
    there = {file for folder in folders if folder.is_dir() for file in folder.iterdir()}
    return set(paths) - there


@contextlib.contextmanager
def _opened(path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    # What Pillow's readers raise for files that are none, cut off, or far too large.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
