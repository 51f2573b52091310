"""Geometric transforms of examples, which are dicts whose fields are transformed by kind.

Other fields are returned unchanged, among them `areas`. Inputs are not modified. Arrays keep
their number of channels; files are read in RGB, unless `to_pixels` has read them before.
"""

import math
from collections.abc import Callable

import numpy as np

from keras_spm.data.bands import Bands
from keras_spm.data.images import ImageLike, PilImage, own_channels, read_image
from keras_spm.types import Example

# Boxes are (objects, 4), left, top, right, bottom in pixels; maps are (..., height, width).
_KINDS = {"image": "image", "boxes": "boxes", "masks": "map", "segmentation_map": "map"}
_OBJECT_FIELDS = ("boxes", "labels", "crowd", "areas", "masks")


def horizontal_flip(example: Example) -> Example:
    """Mirrors an example left to right."""
    image = to_pixels(example["image"])
    width = image.shape[1]

    def flip_boxes(boxes):
        left, top, right, bottom = np.moveaxis(boxes, -1, 0)
        return np.stack([width - right, top, width - left, bottom], axis=-1)

    return _apply(
        {**example, "image": image},
        image=lambda image: image[:, ::-1],
        boxes=flip_boxes,
        map=lambda array: array[..., ::-1],
    )


def resize(example: Example, size: tuple[int, int], interpolation: str = "bilinear") -> Example:
    """Resizes an example to (height, width).

    The interpolation is that of the image: `"nearest"`, `"bilinear"`, `"bicubic"` or
    `"lanczos"`. Masks and segmentation maps use the nearest neighbor.
    """
    from PIL import Image

    image = _read(example["image"])
    height, width = size
    scale = np.array([width / image.width, height / image.height], "float32")
    resample = Image.Resampling[interpolation.upper()]
    return _apply(
        {**example, "image": image},
        image=lambda image: np.asarray(image.resize((width, height), resample)),
        boxes=lambda boxes: boxes * np.tile(scale, 2),
        map=lambda array: _resize_nearest(array, height, width),
    )


def crop(example: Example, box: tuple[int, int, int, int]) -> Example:
    """Crops an example to a box (left, top, right, bottom) inside the image.

    Boxes of objects are clipped. Objects without a visible box or mask are removed.
    """
    left, top, right, bottom = box

    def crop_boxes(boxes):
        start = np.array([left, top] * 2, boxes.dtype)
        return (boxes - start).clip(0, np.array([right - left, bottom - top] * 2, boxes.dtype))

    cropped = _apply(
        {**example, "image": to_pixels(example["image"])},
        image=lambda image: image[top:bottom, left:right],
        boxes=crop_boxes,
        map=lambda array: array[..., top:bottom, left:right],
    )
    if "boxes" not in cropped:
        return cropped
    visible = (cropped["boxes"][:, 2:] > cropped["boxes"][:, :2]).all(axis=1)
    if "masks" in cropped:
        visible &= cropped["masks"].any(axis=(1, 2))
    objects = {name: cropped[name][visible] for name in _OBJECT_FIELDS if name in cropped}
    return {**cropped, **objects}


def pad(
    example: Example,
    size: tuple[int, int],
    image_fill: int | tuple[int, ...] = 0,
    segmentation_fill: int = 255,
) -> Example:
    """Pads an example at the bottom and right to (height, width).

    Added pixels are `image_fill`, a value or one per channel; `segmentation_fill` in
    segmentation maps; and false in masks.
    """

    def pad_image(image):
        padded = np.empty((*size, image.shape[-1]), image.dtype)
        padded[:] = image_fill
        padded[: image.shape[0], : image.shape[1]] = image
        return padded

    def pad_map(array):
        fill = False if array.dtype == bool else segmentation_fill
        padded = np.full((*array.shape[:-2], *size), fill, array.dtype)
        padded[..., : array.shape[-2], : array.shape[-1]] = array
        return padded

    image = to_pixels(example["image"])
    return _apply({**example, "image": image}, image=pad_image, map=pad_map)


def random_affine(
    image: np.ndarray,
    generator: np.random.Generator,
    rotation: float,
    zoom: float,
    translation: float,
) -> np.ndarray:
    """Rotates, scales and shifts an image about its center; added pixels are black.

    Args:
        image: (height, width, channels) uint8.
        generator: source of the random numbers.
        rotation: largest angle in degrees, in both directions.
        zoom: largest relative change of size, in both directions.
        translation: largest shift as a fraction of the side, in both directions.
    """
    from PIL import Image

    height, width = image.shape[:2]
    angle = math.radians(generator.uniform(-rotation, rotation))
    scale = 1 + generator.uniform(-zoom, zoom)
    right, down = generator.uniform(-translation, translation, 2) * (width, height)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    # Pillow maps each point of the result to a point of the source; pixels are unit squares.
    center_x, center_y = width / 2, height / 2
    from_x, from_y = center_x + right, center_y + down
    matrix = (
        *(cosine, sine, center_x - cosine * from_x - sine * from_y),
        *(-sine, cosine, center_y + sine * from_x - cosine * from_y),
    )
    size = width, height
    return np.asarray(_read(image).transform(size, Image.AFFINE, matrix, Image.BILINEAR))


def to_pixels(image: ImageLike, channels: int | None = None) -> np.ndarray:
    """Returns an image as an array (height, width, channels) uint8; see `read_image`.

    By default an array keeps its number of channels, and a file or `PIL.Image.Image` is RGB.
    """
    return np.asarray(_read(image, channels))


def _read(image: ImageLike, channels: int | None = None) -> PilImage | Bands:
    return read_image(image, channels=own_channels(image) if channels is None else channels)


def _apply(example: Example, **functions: Callable) -> Example:
    """Applies to each field the function of its kind."""
    kinds = {name: _KINDS.get(name) for name in example}
    return {
        name: functions[kinds[name]](value) if kinds[name] in functions else value
        for name, value in example.items()
    }


def _resize_nearest(array, height, width):
    """Resizes (..., rows, columns) maps as Pillow does."""
    from PIL import Image

    dtype = "uint8" if array.dtype.itemsize == 1 else "int32"  # Pillow has no other integers.
    maps = array.reshape(-1, *array.shape[-2:]).astype(dtype, copy=False)
    resized = np.empty((len(maps), height, width), dtype)
    for target, each in zip(resized, maps, strict=True):
        target[:] = Image.fromarray(each).resize((width, height), Image.Resampling.NEAREST)
    return resized.astype(array.dtype).reshape(*array.shape[:-2], height, width)
