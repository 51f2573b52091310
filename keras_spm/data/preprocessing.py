"""From files, arrays and data sets to images of the size that a network was trained on."""

import math
import os
import pathlib

import numpy as np

from keras_spm.data.examples import EncodedImage
from keras_spm.data.image_files import opened

INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic")  # In the order of Pillow's codes.


class ImagePreprocessing:
    """Resizes and crops images as in a network's evaluation.

    An image is resized, its ratio kept, until it just covers `image_size / crop_pct`
    (rounded down), and the center is cut out; without a crop fraction it is resized
    straight to `image_size`, whatever its ratio. Both are Pillow's, antialiased, as in the
    code that measured the published accuracies. Pixels stay in [0, 255]: tasks normalize
    them inside.

    Args:
        image_size: (height, width) of the result, ints.
        crop_pct: float above 0 and up to 1, or `None` for no crop.
        interpolation: `"nearest"`, `"bilinear"`, `"bicubic"` or `"lanczos"`.

    Raises:
        ValueError: for an argument that is none of these.

    Example:

    >>> preprocessing = keras_spm.data.ImagePreprocessing((224, 224), crop_pct=0.875)
    >>> preprocessing(np.zeros((480, 640, 3), "uint8")).shape
    (224, 224, 3)
    """

    def __init__(self, image_size, crop_pct=None, interpolation="bicubic"):
        self.image_size = _checked_size(image_size)
        if crop_pct is not None and not 0 < crop_pct <= 1:
            raise ValueError(
                f"`crop_pct` must be above 0 and at most 1, or None. Received: crop_pct={crop_pct}"
            )
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {INTERPOLATIONS}. "
                f"Received: interpolation={interpolation!r}"
            )
        self.crop_pct = crop_pct
        self.interpolation = interpolation

    def __call__(self, images):
        """Brings one image, several, or a data set to `image_size`.

        Args:
            images: path of an image file, `PIL.Image`, or array (height, width, 3) with
                pixels in [0, 255]; or a sequence or batch of those; or an unbatched
                `tf.data.Dataset` of paths or arrays, alone or as the first part of each
                element.

        Returns:
            uint8 array (*image_size, 3) for one image, (count, *image_size, 3) for
            several, and a `tf.data.Dataset` for one.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image.
        """
        if hasattr(images, "element_spec"):
            return self._mapped(images)
        if _is_one(images):
            return self._prepared(images)
        return np.stack([self._prepared(image) for image in images])

    def _prepared(self, image):
        from PIL import Image

        image = read_image(image)
        resample = Image.Resampling(INTERPOLATIONS.index(self.interpolation))
        height, width = self.image_size
        if self.crop_pct is None:
            return np.asarray(image.resize((width, height), resample))
        rows, columns = _covering(image.height, image.width, *self._uncropped)
        # Rounded as torchvision does: half a pixel to the even side.
        top, left = round((rows - height) / 2), round((columns - width) / 2)
        resized = image.resize((columns, rows), resample)
        return np.asarray(resized.crop((left, top, left + width, top + height)))

    @property
    def _uncropped(self):
        # A millionth more, for a fraction that is the rounded quotient of two whole sizes.
        return tuple(int(size / self.crop_pct + 1e-6) for size in self.image_size)

    def _mapped(self, dataset):
        import tensorflow as tf

        def prepared(image):
            image = tf.numpy_function(self._prepared, [image], tf.uint8)
            image.set_shape((*self.image_size, 3))
            return image

        def first_prepared(*parts):
            image, *rest = parts
            return (prepared(image), *rest) if rest else prepared(image)

        return dataset.map(first_prepared, num_parallel_calls=tf.data.AUTOTUNE)

    def get_config(self):
        """Returns the constructor's arguments, as JSON takes them."""
        return {
            "image_size": list(self.image_size),
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
        }


def read_images(images):
    """Reads one image or several of one size, as they are.

    Args:
        images: as `ImagePreprocessing` takes them, but for data sets.

    Returns:
        Array (height, width, 3) for one image, (count, height, width, 3) for several.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image, and for images of several sizes.
    """
    if hasattr(images, "ndim"):
        return np.asarray(images)
    if _is_one(images):
        return np.asarray(read_image(images))
    arrays = [read_images(image) for image in images]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(
            "Images of several sizes need `preprocessing` to bring them to one. "
            f"Received: {[array.shape for array in arrays[:8]]}"
        )
    return np.stack(arrays)


def _checked_size(image_size):
    sizes = tuple(image_size) if isinstance(image_size, (tuple, list)) else ()
    if len(sizes) != 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            "`image_size` must be two positive ints, (height, width). "
            f"Received: image_size={image_size!r}"
        )
    return sizes


def _covering(rows, columns, least_rows, least_columns):
    """The smallest size of the ratio rows:columns that covers the least one."""
    if least_rows * columns >= least_columns * rows:
        return least_rows, max(least_columns, int(least_rows * columns / rows))
    return max(least_rows, int(least_columns * rows / columns)), least_columns


def _is_one(images):
    return (
        isinstance(images, (str, bytes, os.PathLike, EncodedImage))
        or hasattr(images, "convert")  # A PIL image.
        or getattr(images, "ndim", None) == 3
    )


def read_image(image, least_share=1.0):
    """Returns an image in Pillow's RGB, turned as its camera says.

    Args:
        image: path of an image file, `PIL.Image`, `keras_spm.data.EncodedImage`, or array
            (height, width, 3) with pixels in [0, 255].
        least_share: float from 0 to 1: a JPEG file may be decoded at a half, a quarter or
            an eighth of its sides, which is much faster, but no smaller than this.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for what cannot be read as an image.
    """
    from PIL import Image
    from PIL import ImageOps

    if hasattr(image, "convert"):
        return _to_rgb(ImageOps.exif_transpose(image))
    if not isinstance(image, (str, bytes, os.PathLike, EncodedImage)):
        return Image.fromarray(_checked_pixels(np.asarray(image)))
    if isinstance(image, (str, bytes)):
        image = pathlib.Path(os.fsdecode(image))
    with opened(image) as file:
        if least_share < 1:
            file.draft(None, tuple(math.ceil(side * least_share) for side in file.size))
        return _to_rgb(ImageOps.exif_transpose(file))


def _to_rgb(image):
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8.
        image = image.point(lambda value: value / 257).convert("L")
    if image.mode == "P":  # Its transparent color is a color like others.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _checked_pixels(pixels):
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"An image must be (height, width, 3). Received: shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "fiu" or not (pixels.min() >= 0 and pixels.max() <= 255):
        raise ValueError(
            f"Pixels must be numbers in [0, 255]. Received: {pixels.dtype} like {pixels.flat[:3]}"
        )
    return np.round(pixels).astype("uint8")
