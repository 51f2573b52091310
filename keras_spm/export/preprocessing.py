"""Resizing and cropping inside an exported file, as Pillow does them.

Pillow resizes along the rows, rounds to 8 bits, and resizes along the columns. Each is a product
with a matrix of filter weights, without those of pixels outside of the crop. The matrices are
computed from the size of the images when the file runs. Pillow 13 begins with the columns of some
images, such as those more than twice as high as wide; then many values differ by 1.
"""

import math

from keras import ops

from keras_spm.backend import scalar
from keras_spm.registry import lookup
from keras_spm.types import Tensor

_BICUBIC = -0.5  # Pillow's parameter.
_LANCZOS = 3


def resize_and_crop(
    images: Tensor,
    image_size: tuple[int, int],
    crop_pct: float | None = None,
    interpolation: str = "bicubic",
    data_format: str = "channels_last",
) -> Tensor:
    """Computes `keras_spm.data.ImagePreprocessing` of images in a graph.

    About one value in a thousand differs from Pillow's, by 1: its weights are integers of 22 bits.

    Args:
        images: (batch, height, width, channels) in [0, 255], of any dtype, or channels first.
        image_size, crop_pct, interpolation: as of `ImagePreprocessing`.
        data_format: of the images.

    Returns:
        (batch, *image_size, channels), or channels first: integers in [0, 255], float32.
    """
    lookup("interpolation", interpolation, _FILTERS)
    images = ops.round(ops.cast(images, "float32"))
    is_last = data_format == "channels_last"
    images = ops.transpose(images, (0, 3, 1, 2)) if is_last else images
    lengths = ops.shape(images)[2:]
    height, width = (scalar(length, "int32") for length in lengths)
    resized = _resized_size(height, width, image_size, crop_pct)
    rows, columns = (
        _weights(length, scalar(length, "int32"), new, size, interpolation)
        for length, new, size in zip(lengths, resized, image_size, strict=True)
    )
    images = _to_8_bits(ops.matmul(images, ops.transpose(columns)))
    images = _to_8_bits(ops.matmul(rows, images))
    return ops.transpose(images, (0, 2, 3, 1)) if is_last else images


def _resized_size(height, width, image_size, crop_pct):
    """Returns the (height, width) of which `image_size` is the center."""
    if crop_pct is None:
        return image_size
    min_height, min_width = (int(length / crop_pct + 1e-6) for length in image_size)
    return (
        ops.maximum(min_height, ops.floor_divide(min_width * height, width)),
        ops.maximum(min_width, ops.floor_divide(min_height * width, height)),
    )


def _weights(length, old, new, cropped, interpolation):
    """Returns (cropped, length): the weights of pixels in the center of a resized axis.

    Args:
        length, old: number of pixels, as a size and as a tensor.
        new: number of resized pixels.
        cropped: int, number of those that are computed.
        interpolation: name.
    """
    margin = ops.cast(new, "int32") - cropped
    half = ops.floor_divide(margin, 2)
    first = half + (margin % 2) * (half % 2)  # Half a pixel is rounded to the even side.
    targets = ops.expand_dims(first + ops.arange(cropped, dtype="int32"), 1)
    sources = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
    if interpolation == "nearest":
        nearest = ops.floor_divide((2 * targets + 1) * old, 2 * new)
        return ops.cast(ops.equal(sources, nearest), "float32")
    # The distance of two centers times 2 * new, an exact integer.
    distances = (2 * sources + 1) * new - (2 * targets + 1) * old
    # In pixels of the coarser grid: the filter is wider when the image shrinks.
    scale = 2 * ops.cast(ops.maximum(new, old), "float32")
    weights = _FILTERS[interpolation](ops.abs(ops.cast(distances, "float32")) / scale)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _bilinear(distances):
    return ops.maximum(1 - distances, 0)


def _bicubic(distances):
    a, x = _BICUBIC, distances
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return ops.where(x < 1, near, ops.where(x < 2, far, 0.0))


def _lanczos(distances):
    angles = math.pi * ops.maximum(distances, 1e-6)
    values = ops.sin(angles) * ops.sin(angles / _LANCZOS) * _LANCZOS / (angles * angles)
    values = ops.where(distances < 1e-6, 1.0, values)
    return ops.where(distances < _LANCZOS, values, 0.0)


_FILTERS = {"nearest": None, "bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}


def _to_8_bits(images):
    return ops.clip(ops.floor(images + 0.5), 0, 255)
