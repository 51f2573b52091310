"""Reading and checking image files."""

import concurrent.futures
import contextlib
import dataclasses
import io
import math
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from keras_spm.types import PathLike

_MIN_SIDE = 8  # Pixels.
_ORIENTATION = 0x0112  # The Exif tag.
_QUARTER_TURNS = (5, 6, 7, 8)


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file that is stored inside another file."""

    content: bytes
    source: str  # Name of the image in error messages.


ImageFile: TypeAlias = PathLike | bytes | EncodedImage
PilImage: TypeAlias = Any  # `PIL.Image.Image`; Pillow is imported on use.
ImageLike: TypeAlias = ImageFile | PilImage | np.ndarray


def read_image(image: ImageLike, min_scale: float = 1.0) -> PilImage:
    """Reads an image as 8-bit RGB, with its Exif orientation applied.

    Args:
        image: path of an image file, `EncodedImage`, `PIL.Image.Image`, or array (height,
            width, 3) with pixels in [0, 255].
        min_scale: float from 0 to 1. A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its
            size, which is faster, but not below this scale.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file or array is not a readable image.
    """
    from PIL import Image, ImageOps

    if hasattr(image, "convert"):
        return _to_rgb(ImageOps.exif_transpose(image))
    if not is_image_file(image):
        return Image.fromarray(_to_uint8(np.asarray(image)))
    with open_image(image) as file:
        if min_scale < 1:
            file.draft(None, tuple(math.ceil(side * min_scale) for side in file.size))
        return _to_rgb(ImageOps.exif_transpose(file))


def is_image_file(image: object) -> bool:
    """Returns whether an image is a path or an `EncodedImage`."""
    return isinstance(image, (str, bytes, os.PathLike, EncodedImage))


def image_size(image: ImageFile) -> tuple[int, int]:
    """Returns the (height, width) that `read_image` gives, without decoding; raises likewise."""
    with open_image(image) as file:
        turned = file.getexif().get(_ORIENTATION) in _QUARTER_TURNS
        return file.size if turned else file.size[::-1]


def read_index_image(path: PathLike) -> np.ndarray:
    """Returns (height, width) uint8, the gray values or palette indices of an image file.

    Raises a `ValueError` if it has another mode, otherwise the errors of `read_image`.
    """
    with open_image(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"must be 8-bit grayscale or palette, not {image.mode}")
        return np.array(image)


def find_invalid_images(paths: list[pathlib.Path]) -> list[str | None]:
    """Decodes image files; returns for each the reason why it is invalid, or `None`."""
    # Pillow releases the GIL while it decodes.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(_invalid_reason, paths))


def _invalid_reason(path):
    from PIL import Image

    try:
        if path.stat().st_size == 0:
            return "empty file"
        with Image.open(path) as image:
            if min(image.size) < _MIN_SIDE:
                return f"image smaller than {_MIN_SIDE} pixels"
            image.draft("RGB", (1, 1))  # JPEG at 1/8 of its size still shows truncation.
            image.load()
    except FileNotFoundError:
        return "missing image file"
    except PermissionError:
        return "permission denied"
    except Image.DecompressionBombError:
        return "image has too many pixels"
    except Image.UnidentifiedImageError:
        return "not an image"
    except _read_errors():
        return "truncated or corrupt image"
    return None


def missing_files(paths: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Returns the paths that do not exist; each folder is listed once."""
    paths = set(paths)
    folders = {path.parent for path in paths}
    existing = {file for folder in folders if folder.is_dir() for file in folder.iterdir()}
    return paths - existing


def is_system_file(name: str) -> bool:
    """Returns whether a file name is hidden or belongs to the operating system."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def has_image_extension(path: PathLike) -> bool:
    """Returns whether a path has the extension of a format that Pillow reads."""
    from PIL import Image

    return os.path.splitext(path)[1].lower() in Image.registered_extensions()


@contextlib.contextmanager
def open_image(image: ImageFile) -> Iterator[PilImage]:
    """Opens an image file; errors inside the block name the file, as in `read_image`."""
    from PIL import Image

    if isinstance(image, EncodedImage):
        source, file = image.source, io.BytesIO(image.content)
    else:
        source = file = pathlib.Path(os.fsdecode(image))
    try:
        with Image.open(file) as opened:
            yield opened
    except FileNotFoundError:
        raise
    except _read_errors() as error:
        raise ValueError(f"{source} cannot be read as an image: {error}") from error


def _read_errors():
    """Exceptions of Pillow for files that are not images, truncated or too large."""
    from PIL import Image

    errors = (OSError, SyntaxError, ValueError, EOFError, struct.error)
    return (*errors, Image.DecompressionBombError)


def _to_rgb(image):
    if image.mode.startswith("I"):  # 16 bits per channel, which Pillow would clip to 8.
        image = image.point(lambda value: value / 257).convert("L")
    if image.mode == "P":  # Ignores the transparent color.
        image = image.convert("RGBA")
    return image.convert("RGB")


def check_pixels(pixels: np.ndarray) -> None:
    """Checks an image in memory.

    Raises:
        ValueError: unless it is (height, width, 3) with numbers in [0, 255].
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(f"An image must be (height, width, 3). Received: shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return
    if pixels.dtype.kind not in "fiu" or not (pixels.min() >= 0 and pixels.max() <= 255):
        raise ValueError(
            f"Pixels must be numbers in [0, 255]. Received: {pixels.dtype} like {pixels.flat[:3]}"
        )


def _to_uint8(pixels):
    check_pixels(pixels)
    return pixels if pixels.dtype == np.uint8 else np.round(pixels).astype("uint8")
