"""Preprocessing of images for evaluation, as the network's own code does it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_spm.arguments import check_integer, check_number
from keras_spm.data.bands import RGB, with_channel_axis
from keras_spm.data.batching import ImageGeometry
from keras_spm.data.images import ImageLike, is_image_file, read_image

# In the order of Pillow's resampling codes.
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic")


class ImagePreprocessing:
    """Resizes and center-crops images for evaluation.

    The image is resized by Pillow, with antialiasing and with its aspect ratio kept, until it
    just covers `image_size / crop_pct` (rounded down), then the center is cropped. Without
    `crop_pct` it is resized straight to `image_size`. Pixels stay in [0, 255]: tasks normalize
    inside the model.

    Args:
        image_size: (height, width) of the result.
        crop_pct: float above 0 and up to 1, or `None` for no crop.
        interpolation: `"nearest"`, `"bilinear"`, `"bicubic"` or `"lanczos"`.
        channels: number of channels of the images. A task sets it to that of its backbone.

    Raises:
        ValueError: if an argument is not one of these.

    Example:

    >>> preprocessing = keras_spm.data.ImagePreprocessing((224, 224), crop_pct=0.875)
    >>> preprocessing(np.zeros((480, 640, 3), "uint8")).shape
    (224, 224, 3)
    """

    def __init__(
        self,
        image_size: tuple[int, int] | list[int],
        crop_pct: float | None = None,
        interpolation: str = "bicubic",
        channels: int = RGB,
    ) -> None:
        sizes = tuple(image_size) if isinstance(image_size, (tuple, list)) else ()
        if len(sizes) != 2 or not all(map(_is_side, sizes)):
            raise ValueError(
                "`image_size` must be two positive ints, (height, width). "
                f"Received: image_size={image_size!r}"
            )
        if crop_pct is not None:
            crop_pct = check_number("crop_pct", crop_pct, maximum=1, allow_minimum=False)
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {INTERPOLATIONS}. "
                f"Received: interpolation={interpolation!r}"
            )
        self.image_size = tuple(map(int, sizes))
        self.crop_pct = crop_pct
        self.interpolation = interpolation
        self.channels = check_integer("channels", channels)

    def __call__(self, images: Any) -> Any:
        """Preprocesses one image, several images or a data set.

        Args:
            images: path of an image file, `PIL.Image.Image`, or array (height, width, channels)
                with pixels in [0, 255]; or a sequence or batch of those; or an unbatched
                `tf.data.Dataset` of paths or arrays, alone or as the first of several
                components.

        Returns:
            uint8 array (*image_size, channels) for one image, (count, *image_size, channels)
            for several images, and a `tf.data.Dataset` for a data set.

        Raises:
            FileNotFoundError: if a path does not exist.
            ValueError: if a file or array is not a readable image, or has other channels.
        """
        if hasattr(images, "element_spec"):
            return self._map(images)
        if _is_single(images):
            return self._preprocess(images)
        prepared = [self._preprocess(image) for image in images]
        shape = (0, *self.image_size, self.channels)
        return np.stack(prepared) if prepared else np.zeros(shape, "uint8")

    def _preprocess(self, image):
        from PIL import Image

        image = read_image(image, channels=self.channels)
        resample = Image.Resampling(INTERPOLATIONS.index(self.interpolation))
        geometry = self.geometry((image.height, image.width))
        (height, width), (top, left) = self.image_size, geometry.corner
        resized = image.resize(geometry.resized[::-1], resample)
        return np.asarray(resized.crop((left, top, left + width, top + height)))

    def geometry(self, size: tuple[int, int]) -> ImageGeometry:
        """Returns how an image of a (height, width) is resized, and where it is cropped."""
        if self.crop_pct is None:
            return ImageGeometry(size, self.image_size)
        # A millionth more, because `crop_pct` may be the rounded quotient of two sizes.
        min_size = [int(length / self.crop_pct + 1e-6) for length in self.image_size]
        resized = _covering_size(*size, *min_size)
        # Rounded as torchvision does: half a pixel to the even side.
        corner = tuple(
            round((length - cropped) / 2)
            for length, cropped in zip(resized, self.image_size, strict=True)
        )
        return ImageGeometry(size, resized, corner)

    def _map(self, dataset):
        import tensorflow as tf

        def preprocess(image, *rest):
            image = tf.numpy_function(self._preprocess, [image], tf.uint8)
            image.set_shape((*self.image_size, self.channels))
            return (image, *rest) if rest else image

        return dataset.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            "image_size": list(self.image_size),
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "channels": self.channels,
        }


def stack_images(images: Sequence[ImageLike], channels: int = RGB) -> np.ndarray:
    """Reads images of one size, without resizing: (count, height, width, channels).

    Raises a `ValueError` if images differ in size. Arrays keep their dtype.
    """
    arrays = [
        with_channel_axis(np.asarray(each), channels)
        if hasattr(each, "ndim")
        else np.asarray(read_image(each, channels=channels))
        for each in images
    ]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(
            "Images of several sizes need `preprocessing`. "
            f"Received: {[array.shape for array in arrays[:8]]}"
        )
    return np.stack(arrays)


def _covering_size(height, width, min_height, min_width):
    """The smallest size with the aspect ratio height:width that covers the minimum size."""
    if min_height * width >= min_width * height:
        return min_height, max(min_width, int(min_height * width / height))
    return max(min_height, int(min_width * height / width)), min_width


def _is_side(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


def _is_single(images):
    return (
        is_image_file(images)
        or hasattr(images, "convert")  # A PIL image.
        or getattr(images, "ndim", None) in (2, 3)
    )
