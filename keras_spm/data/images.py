"""Reading and checking image files."""

import concurrent.futures
import contextlib
import dataclasses
import io
import math
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from keras_spm.types import PathLike

# Formats that Pillow decodes itself. Of the others, some start programs (PostScript starts
# Ghostscript), and some are read by plugins that few people have.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "MPO", "DDS", "DIB", "FITS"),
    *("ICO", "PCX", "PPM", "PSD", "QOI", "SGI", "TGA"),
)
_MIN_SIDE = 8  # Pixels.
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION = 0x0100, 0x0101, 0x0112  # Tags of TIFF and Exif.
_QUARTER_TURNS = (5, 6, 7, 8)
_DARK = 16  # An image of more than 8 bits is almost black if all its levels are below this.


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

    Integers of 16 bits are divided by 257, floats are rounded. A warning is issued if such an
    image comes out almost black.

    Args:
        image: path of an image file, `EncodedImage`, `PIL.Image.Image`, or array (height,
            width, 3) with pixels in [0, 255].
        min_scale: float from 0 to 1. A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its
            size, which is faster, but not below this scale.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file or array is not a readable image, has pixels that are negative or
            not finite, integers above 65535, floats above 255, or more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image, ImageOps

    if hasattr(image, "convert"):
        return _to_rgb(ImageOps.exif_transpose(image))
    if not is_image_file(image):
        return Image.fromarray(_to_uint8(np.asarray(image)))
    with open_image(image) as file:
        if min_scale < 1:
            file.draft(None, tuple(math.ceil(side * min_scale) for side in file.size))
        return _decode(file)


def is_image_file(image: object) -> bool:
    """Returns whether an image is a path or an `EncodedImage`."""
    return isinstance(image, (str, bytes, os.PathLike, EncodedImage))


def image_size(image: ImageFile) -> tuple[int, int]:
    """Returns the (height, width) that `read_image` gives, without decoding; raises likewise."""
    with open_image(image) as file:
        width, height = file.size
        if file.format == "TIFF":  # Pillow may have swapped the sides of `size` already.
            width, height = file.tag_v2[_IMAGE_WIDTH], file.tag_v2[_IMAGE_LENGTH]
        turned = file.getexif().get(_ORIENTATION) in _QUARTER_TURNS
        return (width, height) if turned else (height, width)


def read_index_image(path: PathLike, colors: np.ndarray | None = None) -> np.ndarray:
    """Returns (height, width) uint8, the gray values or palette indices of an image file.

    Args:
        path: path of the file.
        colors: optional (values, 3) uint8, the color of each value, for files in RGB.

    Raises:
        FileNotFoundError, ValueError: as `read_image`; and if the image has colors, but `colors`
            is not given or lacks one of them.
    """
    from PIL import ImageOps

    with open_image(path) as image:
        if image.mode == "1":
            image = image.convert("L")
        if image.mode in ("P", "L") and (colors is None or image.mode == "L"):
            return np.array(ImageOps.exif_transpose(image))
        if image.mode not in ("P", "RGB", "RGBA"):
            raise ValueError(f"must be 8-bit grayscale, palette or RGB, not {image.mode}")
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        if colors is None and (pixels == pixels[..., :1]).all():
            return pixels[..., 0]
        return _color_indices(pixels, colors)


def _color_indices(pixels, colors):
    """Returns the index in `colors` of every pixel."""
    found, indices = np.unique(_color_numbers(pixels), return_inverse=True)
    colors = np.empty((0, 3), "uint8") if colors is None else colors
    known = {number: index for index, number in enumerate(_color_numbers(colors).tolist())}
    if unknown := [number for number in found.tolist() if number not in known]:
        listed = ", ".join(f"#{number:06x}" for number in unknown[:5])
        raise ValueError(
            "it has colors without a class; give the color of each class in `classes.txt`, or "
            f"write class numbers. Received: {listed}{', …' * (len(unknown) > 5)}"
        )
    values = np.array([known[number] for number in found.tolist()], "uint8")
    return values[indices].reshape(pixels.shape[:2])


def _color_numbers(colors):
    return colors.astype("int32") @ (1 << 16, 1 << 8, 1)


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
        with _open(path) as image:
            if min(image.size) < _MIN_SIDE:
                return f"image smaller than {_MIN_SIDE} pixels"
            image.draft("RGB", (1, 1))  # JPEG at 1/8 of its size still shows truncation.
            _decode(image)
    except FileNotFoundError:
        return "missing image file"
    except PermissionError:
        return "permission denied"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "image has too many pixels"
    except Image.UnidentifiedImageError:
        return "not an image"
    except _PixelError as error:
        return str(error)
    except UserWarning:  # With warnings as errors.
        raise
    except Exception:  # See `open_image`.
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
    """Returns whether a path has the extension of a format that is read."""
    from PIL import Image

    extension = os.path.splitext(path)[1].lower()
    return Image.registered_extensions().get(extension) in _FORMATS


@contextlib.contextmanager
def open_image(image: ImageFile) -> Iterator[PilImage]:
    """Opens an image file; errors inside the block name the file, as in `read_image`."""
    if isinstance(image, EncodedImage):
        source, file = image.source, io.BytesIO(image.content)
    else:
        source = file = pathlib.Path(os.fsdecode(image))
    try:
        with _open(file) as opened:
            yield opened
    except (FileNotFoundError, UserWarning):
        raise
    except Exception as error:
        # Damaged files make Pillow raise almost anything: OSError, SyntaxError, ValueError,
        # NotImplementedError, ZeroDivisionError, …
        reason = str(error) or type(error).__name__
        raise ValueError(f"{source} cannot be read as an image: {reason}") from error


@contextlib.contextmanager
def _open(file):
    """Opens a file in one of the formats. More pixels than Pillow warns of are an error."""
    from PIL import Image

    Image.init()  # Registers all formats.
    with Image.open(file, "r", [name for name in _FORMATS if name in Image.OPEN]) as image:
        limit, pixels = Image.MAX_IMAGE_PIXELS, math.prod(image.size)
        if limit is not None and pixels > limit:
            raise Image.DecompressionBombError(
                f"it has {pixels} pixels, and `PIL.Image.MAX_IMAGE_PIXELS` is {limit}"
            )
        yield image


class _PixelError(ValueError):
    """The pixels of a file have values that are no levels."""


def _decode(file):
    """Returns an open file as 8-bit RGB, upright."""
    from PIL import ImageOps

    # Pillow reads colors of 16 bits as 8 bits.
    deep = file.format in ("PNG", "TIFF") and ";16" in str(file.tile)
    ImageOps.exif_transpose(file, in_place=True)
    image = _to_rgb(file)
    if deep and file.mode[0] not in "IF":
        _warn_if_dark(image)
    return image


def _to_gray(pixels):
    """Converts (height, width) integers of up to 16 bits, or floats."""
    from PIL import Image

    is_float = pixels.dtype.kind == "f"
    if not pixels.min() >= 0 or not pixels.max() < np.inf:
        raise _PixelError("pixels that are negative or not finite")
    if pixels.max() > (255 if is_float else 65535):
        raise _PixelError(f"pixels above {'255.0' if is_float else '65535'}")
    return Image.fromarray((np.round(pixels) if is_float else pixels // 257).astype("uint8"))


def _warn_if_dark(image):
    # The same text for all files: Python shows it once.
    if max(np.ravel(image.getextrema())) < _DARK:
        warnings.warn(
            f"An image of 16-bit integers or floats is almost black, below {_DARK} of 255. "
            "Integers must use all 16 bits, 0 to 65535, and floats must be from 0 to 255.",
            stacklevel=2,
        )


def _to_rgb(image):
    if image.mode[0] in "IF":  # Pillow would clip integers and floats to 8 bits.
        image = _to_gray(np.asarray(image))
        _warn_if_dark(image)
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
