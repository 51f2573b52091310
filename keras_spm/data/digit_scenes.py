"""Scenes composed of real handwritten digits, for dense tasks: nothing to download.

Several digits of different size and color, which may overlap, stand on a smooth
background with clutter. A scene is decided by its split and number, so a data set has no
files; the digits of one split occur in no other.
"""

import functools
import typing

import numpy as np

from keras_spm.data.digits import load_digits
from keras_spm.registry import lookup

CLASS_NAMES = ["background", *map(str, range(10))]
_SPLITS = {"train": 0, "validation": 1, "test": 2}

_DIGITS = (4, 7)  # In a scene, from and to; fewer where no room was found.
_ATTEMPTS = 10  # To find room, for a digit.
_SIDES = (0.32, 0.55)  # Of a digit, as a share of the scene's.
_LARGEST_TURN = 10  # Degrees.
_HIDDEN = 0.1  # At most, of a digit by those in front of it.
_DARK = (0, 120)  # The background's levels, of red, green and blue each.
_LIGHT = (100, 255)  # The digits'.
_CHOICE = 16  # Random colors, of which a digit takes the one that stands out most.
_INK = 0.4  # Level of a scan, from 0 to 1, from which on a pixel is the digit's.
_CONTRAST = 2.5  # Of the opacity to the scan, whose grays tell narrow loops from blots.
_NOISE = 6  # Standard deviation, levels.


class Scene(typing.NamedTuple):
    """An image and what is in it.

    Attributes:
        image: (height, width, 3) uint8.
        segmentation_map: (height, width) uint8; 0 is background, digit d is d + 1.
        boxes: (digits, 4) float32, left, top, right and bottom of what is visible, pixels.
        labels: (digits,) int64, from 0 to 9.
        masks: (digits, height, width) bool, what is visible.
    """

    image: np.ndarray
    segmentation_map: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    @property
    def crowd(self):
        """(digits,) bool, all false: every digit is one."""
        return np.zeros(len(self.labels), bool)

    @property
    def areas(self):
        """(digits,) ints, pixels of each mask."""
        return self.masks.sum(axis=(1, 2))


class DigitScenes:
    """A split of the data set, as a sequence of `Scene`s that are made when asked for.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        count: int, how many scenes.
        side: int, height and width of a scene, pixels.

    Raises:
        ValueError: for an unknown split.
    """

    def __init__(self, split, count, side=160):
        self._split_number = lookup("split", split, _SPLITS)
        self._digits = getattr(_splits(), split)
        self._count = count
        self._side = side

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if not 0 <= index < self._count:
            raise IndexError(index)
        return _compose(
            self._digits, self._side, np.random.default_rng([self._split_number, index])
        )


@functools.cache
def _splits():
    return load_digits()


def _compose(digits, side, generator):
    image = _background(side, generator)
    masks, labels, whole, colors = [], [], [], []
    for _ in range(generator.integers(*_DIGITS, endpoint=True)):
        choice = generator.integers(len(digits.labels))
        opacity = _turned(digits.images[choice, ..., 0], side, generator)
        found = _room(opacity > 0.5, masks, whole, side, generator)
        if found is None:
            continue
        window, mask, visible = found
        behind = image[window]
        colors.append(_color(behind, colors, generator))
        behind += opacity[..., None] * (colors[-1] - behind)
        masks = [*visible, mask]
        whole.append(mask.sum())
        labels.append(digits.labels[choice])
    image += _NOISE * generator.standard_normal(image.shape, "float32")
    masks, labels = np.stack(masks), np.array(labels)
    segmentation_map = np.zeros((side, side), "uint8")
    for mask, label in zip(masks, labels, strict=True):
        segmentation_map[mask] = label + 1
    boxes = np.stack([_box(mask) for mask in masks])
    return Scene(image.clip(0, 255).astype("uint8"), segmentation_map, boxes, labels, masks)


def _background(side, generator):
    """A few random colors blended over the canvas, with strokes and spots on it."""
    from PIL import Image
    from PIL import ImageDraw

    colors = generator.integers(*_DARK, (4, 4, 3), dtype="uint8")
    canvas = Image.fromarray(colors).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(generator.integers(4, 10)):
        points = generator.uniform(0, side, (2, 2))
        color = tuple(map(int, generator.integers(0, 256, 3)))
        if generator.random() < 0.5:
            draw.line([tuple(point) for point in points], color, int(generator.integers(1, 4)))
        else:
            radius = generator.uniform(0.01, 0.04) * side
            draw.ellipse([*(points[0] - radius), *(points[0] + radius)], color)
    return np.asarray(canvas, "float32").copy()


def _turned(scan, side, generator):
    """The opacity, (size, size), of a digit turned and enlarged."""
    from PIL import Image

    size = round(generator.uniform(*_SIDES) * side)
    angle = generator.uniform(-_LARGEST_TURN, _LARGEST_TURN)
    digit = Image.fromarray(scan).resize((size, size), Image.Resampling.BICUBIC)
    digit = np.asarray(digit.rotate(angle, Image.Resampling.BILINEAR), "float32")
    return (0.5 + _CONTRAST * (digit / 255 - _INK)).clip(0, 1)


def _room(shape, masks, whole, side, generator):
    """A place for a digit's shape that leaves enough of those behind.

    Returns (window of the canvas, the digit's mask, what is then visible of `masks`), or
    None where a few random places had too little.
    """
    size = len(shape)
    for left, top in generator.integers(0, side - size, (_ATTEMPTS, 2), endpoint=True):
        window = slice(top, top + size), slice(left, left + size)
        mask = np.zeros((side, side), bool)
        mask[window] = shape
        visible = [each & ~mask for each in masks]
        if all(
            each.sum() >= (1 - _HIDDEN) * area for each, area in zip(visible, whole, strict=True)
        ):
            return window, mask, visible
    return None


def _color(behind, others, generator):
    """Of a few random colors the one most unlike the other digits' and (nearly) all behind."""
    colors = generator.uniform(*_LIGHT, (_CHOICE, 3)).astype("float32")
    distances = np.linalg.norm(behind[::4, ::4, None] - colors, axis=-1)
    nearest = np.quantile(distances, 0.1, axis=(0, 1))
    for other in others:
        nearest = np.minimum(nearest, np.linalg.norm(colors - other, axis=-1))
    return colors[nearest.argmax()]


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], "float32")
