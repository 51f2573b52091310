"""Augmentation of single images, random by a generator that the caller seeds."""

import math

import numpy as np


def random_affine(image, generator, rotation, zoom, translation):
    """Turns, scales and shifts an image about its center; what comes in is black.

    Args:
        image: (height, width, 3) uint8.
        generator: `numpy.random.Generator`.
        rotation: float, largest angle in degrees, either way.
        zoom: float, largest relative change of size, either way.
        translation: float, largest shift as a share of the side, either way.

    Returns:
        (height, width, 3) uint8
    """
    from PIL import Image

    height, width = image.shape[:2]
    angle = math.radians(generator.uniform(-rotation, rotation))
    scale = 1 + generator.uniform(-zoom, zoom)
    right, down = generator.uniform(-translation, translation, 2) * (width, height)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    # PIL maps each point of the result to a point of the source; pixels are unit squares.
    center_x, center_y = width / 2, height / 2
    from_x, from_y = center_x + right, center_y + down
    matrix = (
        cosine,
        sine,
        center_x - cosine * from_x - sine * from_y,
        -sine,
        cosine,
        center_y + sine * from_x - cosine * from_y,
    )
    moved = Image.fromarray(image).transform(
        (width, height), Image.AFFINE, matrix, resample=Image.BILINEAR
    )
    return np.asarray(moved)


def mirrored(image, boxes):
    """Returns an image and its boxes with left and right exchanged.

    Args:
        image: (height, width, 3).
        boxes: (objects, 4) left, top, right, bottom in its pixels.
    """
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    width = image.shape[1]
    return image[:, ::-1], np.stack([width - right, top, width - left, bottom], axis=-1)
