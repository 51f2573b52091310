"""Images in arrays, and of any number of channels, which Pillow does not have."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_spm.types import PathLike

RGB = 3  # Channels.
# NumPy parses the header of a file with `ast`, which fails in threads on Python 3.11
# (python/cpython#106905).
_NPY_HEADER = threading.Lock()


class Bands:
    """An image of any number of channels: one gray Pillow image for each.

    It has those attributes and methods of `PIL.Image.Image` that this package uses. Pillow has
    no images of more than four channels, and scales the colors of RGBA images by their opacity.

    Args:
        bands: list of `PIL.Image.Image` of mode `"L"` and one size.
    """

    def __init__(self, bands: list[Any]) -> None:
        self.bands = bands

    @classmethod
    def from_pixels(cls, pixels: np.ndarray) -> "Bands":
        """Returns the image of an array (height, width, channels) uint8."""
        from PIL import Image

        bands = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        return cls([Image.fromarray(band) for band in bands])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as Pillow has it."""
        return self.bands[0].size

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, len(self.bands))

    def map(self, function: Callable, *values: Sequence) -> "Bands":
        """Returns the image of `function(band, *values of the band)` for each band."""
        return Bands([function(*each) for each in zip(self.bands, *values, strict=True)])

    def resize(self, *args: Any) -> "Bands":
        return self.map(lambda band: band.resize(*args))

    def crop(self, *args: Any) -> "Bands":
        return self.map(lambda band: band.crop(*args))

    def transpose(self, *args: Any) -> "Bands":
        return self.map(lambda band: band.transpose(*args))

    def transform(self, *args: Any) -> "Bands":
        return self.map(lambda band: band.transform(*args))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns (height, width, channels) uint8."""
        pixels = np.stack([np.asarray(band) for band in self.bands], axis=-1)
        return pixels if dtype is None else pixels.astype(dtype)


def rgb_to_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Returns the values of red, green and blue for another number of channels.

    That is their average for one channel, and the three in turn for more.
    """
    if channels == 1:
        return (sum(values) / RGB,)
    return tuple(values[channel % RGB] for channel in range(channels))


def check_pixels(pixels: np.ndarray, channels: int = RGB, name: str = "An image") -> None:
    """Checks an image in memory.

    Args:
        pixels: array.
        channels: number of channels that it must have.
        name: of the image in messages.

    Raises:
        ValueError: unless it is (height, width, channels) with numbers in [0, 255].
    """
    check_shape(pixels, channels, name)
    if pixels.dtype == np.uint8:
        return
    if pixels.dtype.kind not in "fiu" or not (pixels.min() >= 0 and pixels.max() <= 255):
        raise ValueError(
            f"Pixels must be numbers in [0, 255]. Received: {pixels.dtype} like {pixels.flat[:3]}"
        )


def check_shape(image: np.ndarray | Bands, channels: int, name: str = "An image") -> None:
    """Raises a `ValueError` unless an image is (height, width, channels)."""
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[-1] != channels or 0 in shape:
        raise ValueError(f"{name} must be (height, width, {channels}). Received: shape {shape}")


def with_channel_axis(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Returns (height, width, 1) for (height, width) if images have one channel."""
    return pixels[..., None] if channels == 1 and pixels.ndim == 2 else pixels


def from_pixels(pixels: np.ndarray, channels: int = RGB) -> Any:
    """Returns a checked array as a `PIL.Image.Image` in RGB, or as `Bands`."""
    from PIL import Image

    pixels = with_channel_axis(pixels, channels)
    check_pixels(pixels, channels)
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels).astype("uint8")
    return Image.fromarray(pixels) if channels == RGB else Bands.from_pixels(pixels)


def is_array_file(image: object) -> bool:
    """Returns whether an image is the path of a `.npy` file."""
    is_path = isinstance(image, (str, bytes, os.PathLike))
    return is_path and os.fsdecode(image).lower().endswith(".npy")


def load_array(path: PathLike) -> np.ndarray:
    """Returns the array of a `.npy` file."""
    # Mapped, so that a header cannot make NumPy allocate more than the file has.
    with _NPY_HEADER:
        return np.load(os.fsdecode(path), mmap_mode="r", allow_pickle=False)


def invalid_array(path: PathLike, min_side: int) -> str | None:
    """Returns the reason why a `.npy` file is not an image, or `None`."""
    pixels = load_array(path)
    if pixels.ndim not in (2, 3) or min(pixels.shape[:2]) < min_side:
        return f"array that is not (height, width, channels) of at least {min_side} pixels"
    try:
        check_pixels(np.atleast_3d(pixels), np.atleast_3d(pixels).shape[-1])
    except ValueError:
        return "pixels that are not numbers in [0, 255]"
    return None
