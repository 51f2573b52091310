"""Image files: which there are, whether they can be read, their sizes, label maps in them."""

import concurrent.futures
import contextlib
import io
import os
import struct

import numpy as np

from keras_spm.data.examples import EncodedImage

_SMALLEST_SIDE = 8  # Pixels; nothing can be told from less.
_ORIENTATION = 0x0112  # The Exif tag.
_ON_ITS_SIDE = (5, 6, 7, 8)


def image_size(path):
    """Returns the (height, width) that `read_image` gives, without decoding the image.

    Args:
        path: of an image file, or `EncodedImage`.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image.
    """
    with opened(path) as image:
        turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
        return image.size if turned else image.size[::-1]


def read_label_map(path):
    """Returns the values that an 8-bit image with a palette or in gray holds.

    Args:
        path: of an image file.

    Returns:
        (height, width) uint8; with a palette the places in it, not its colors.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image, and for another kind of image.
    """
    with opened(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"not 8 bits a pixel, with a palette or gray, but {image.mode}")
        return np.array(image)


def missing_files(paths):
    """Returns the set of those that are not there; each folder is listed once."""
    folders = {path.parent for path in paths}
    there = {file for folder in folders if folder.is_dir() for file in folder.iterdir()}
    return set(paths) - there


def faults(paths):
    """Decodes image files to find those that cannot be trained on.

    JPEG files are decoded at an eighth of their sides, which is faster and misses nothing
    of a file that is cut off.

    Args:
        paths: list of paths.

    Returns:
        List of str, the rule that a file breaks, or None where it is sound.
    """
    # Pillow decodes without holding Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(_fault, paths))


def _fault(path):
    from PIL import Image

    try:
        if path.stat().st_size == 0:
            return "empty file"
        with Image.open(path) as image:
            if min(image.size) < _SMALLEST_SIDE:
                return f"image of fewer than {_SMALLEST_SIDE} pixels a side"
            image.draft("RGB", (1, 1))
            image.load()
    except FileNotFoundError:
        return "missing image file"
    except PermissionError:
        return "file that must not be read"
    except Image.DecompressionBombError:
        return "image too large to be read safely"
    except Image.UnidentifiedImageError:
        return "file that is no image"
    except _unreadable():
        return "image that cannot be read whole"
    return None


@contextlib.contextmanager
def opened(image):
    """Opens an image file with Pillow; what fails inside names the file.

    Args:
        image: path, or `EncodedImage`.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image.
    """
    from PIL import Image

    encoded = isinstance(image, EncodedImage)
    source = image.source if encoded else image
    try:
        with Image.open(io.BytesIO(image.content) if encoded else image) as file:
            yield file
    except FileNotFoundError:
        raise
    except _unreadable() as error:
        raise ValueError(f"{source} cannot be read as an image: {error}") from error


def _unreadable():
    """What Pillow's readers raise for files that are none, cut off, or far too large."""
    from PIL import Image

    return (
        *(OSError, SyntaxError, ValueError, EOFError, struct.error),
        Image.DecompressionBombError,
    )
