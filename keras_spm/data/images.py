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

from keras_spm.data.bands import (
    RGB,
    Bands,
    check_shape,
    from_pixels,
    invalid_array,
    is_array_file,
    load_array,
)
from keras_spm.types import PathLike

# Formats that Pillow decodes itself. Of the others, some start programs (PostScript starts
# Ghostscript), and some are read by plugins that few people have.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "MPO", "DDS", "DIB", "FITS"),
    *("ICO", "PCX", "PPM", "PSD", "QOI", "SGI", "TGA"),
)
_MIN_SIDE = 8  # Pixels.
# Tags of TIFF and Exif.
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION, _SAMPLES_PER_PIXEL = 0x0100, 0x0101, 0x0112, 0x0115
# Of images of a number of channels, for files and images of Pillow.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
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


def read_image(image: ImageLike, min_scale: float = 1.0, channels: int = RGB) -> PilImage | Bands:
    """Reads an image as 8-bit RGB, or with other channels, and with its Exif orientation applied.

    Integers of 16 bits are divided by 257, floats are rounded. A warning is issued if such an
    image comes out almost black.

    Files are converted to gray, gray with alpha, RGB or RGBA for 1 to 4 channels, with alpha 255
    if they have none. A TIFF file may also have one gray page per channel, for any number but 3.
    Pillow reads no more than 4 channels of a page: save such images as `.npy`.

    Args:
        image: path of an image file, `EncodedImage`, `PIL.Image.Image`, or array (height,
            width, channels) with pixels in [0, 255], also as a `.npy` file. Gray arrays may be
            (height, width).
        min_scale: float from 0 to 1. A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its
            size, which is faster, but not below this scale.
        channels: int.

    Returns:
        `PIL.Image.Image` in RGB, or `Bands` of another number of channels.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a file or array is not a readable image, has other channels, has pixels
            that are negative or not finite, integers above 65535, floats above 255, or more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import ImageOps

    if isinstance(image, Bands):
        check_shape(image, channels)
        return image
    if hasattr(image, "convert"):
        return _to_channels(ImageOps.exif_transpose(image), channels)
    if not is_image_file(image):
        return from_pixels(np.asarray(image), channels)
    if is_array_file(image):
        with _errors_of(image):
            return from_pixels(load_array(image), channels)
    with open_image(image) as file:
        if min_scale < 1:
            file.draft(None, tuple(math.ceil(side * min_scale) for side in file.size))
        return _decode(file, channels)


def own_channels(image: ImageLike) -> int:
    """Returns the number of channels of an array or `.npy` file; 3 for other images."""
    if is_image_file(image):
        if not is_array_file(image):
            return RGB
        with _errors_of(image):
            image = load_array(image)
    shape = getattr(image, "shape", (RGB,))
    return 1 if len(shape) == 2 else shape[-1]


def is_image_file(image: object) -> bool:
    """Returns whether an image is a path or an `EncodedImage`."""
    return isinstance(image, (str, bytes, os.PathLike, EncodedImage))


def image_size(image: ImageFile) -> tuple[int, int]:
    """Returns the (height, width) that `read_image` gives, without decoding; raises likewise."""
    if is_array_file(image):
        with _errors_of(image):
            height, width, *_ = load_array(image).shape
            return height, width
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
        if is_array_file(path):
            return invalid_array(path, _MIN_SIDE)
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
    with _errors_of(source), _open(file) as opened:
        yield opened


@contextlib.contextmanager
def _errors_of(source):
    """Names the file in errors."""
    try:
        yield
    except (FileNotFoundError, UserWarning):
        raise
    except Exception as error:
        # Damaged files make Pillow raise almost anything: OSError, SyntaxError, ValueError,
        # NotImplementedError, ZeroDivisionError, …
        unknown = type(error).__name__ == "UnidentifiedImageError"  # Names an object in memory.
        reason = "not an image" if unknown else str(error) or type(error).__name__
        source = os.fsdecode(source) if isinstance(source, bytes) else source
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


def _decode(file, channels=RGB):
    """Returns an open file as an 8-bit image, upright."""
    from PIL import ImageOps

    if channels != RGB and file.format == "TIFF":
        samples, bands = file.tag_v2.get(_SAMPLES_PER_PIXEL, 1), len(file.getbands())
        if bands == 1 < file.n_frames and (file.n_frames == channels or channels not in _MODES):
            return _read_pages(file, channels)
        if bands < min(samples, channels):
            raise ValueError(
                f"Pillow reads only {bands} of its {samples} channels. Save the array (height, "
                "width, channels) as `.npy`"
            )
    # Pillow reads colors of 16 bits as 8 bits.
    deep = file.format in ("PNG", "TIFF") and ";16" in str(file.tile)
    ImageOps.exif_transpose(file, in_place=True)
    image = _to_channels(file, channels)
    if deep and file.mode[0] not in "IF":
        _warn_if_dark(image)
    return image


def _read_pages(file, channels):
    """Returns the pages of an open file as channels."""
    from PIL import ImageOps

    if file.n_frames != channels:
        raise ValueError(f"An image must have {channels} channels. Received: {file.n_frames} pages")
    bands = []
    for number in range(channels):
        file.seek(number)
        bands += _to_channels(ImageOps.exif_transpose(file), 1).bands
    if len({band.size for band in bands}) > 1:
        raise ValueError("its pages differ in size")
    return Bands(bands)


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
    if np.max(image) < _DARK:
        warnings.warn(
            f"An image of 16-bit integers or floats is almost black, below {_DARK} of 255. "
            "Integers must use all 16 bits, 0 to 65535, and floats must be from 0 to 255.",
            stacklevel=2,
        )


def _to_channels(image, channels):
    if image.mode[0] in "IF":  # Pillow would clip integers and floats to 8 bits.
        image = _to_gray(np.asarray(image))
        _warn_if_dark(image)
    if image.mode == "P":  # Ignores the transparent color.
        image = image.convert("RGBA")
    if channels not in _MODES:
        raise ValueError(
            f"An image must have {channels} channels. Received: {len(image.getbands())}, "
            f"mode {image.mode}"
        )
    image = image.convert(_MODES[channels])
    return image if channels == RGB else Bands(list(image.split()))
