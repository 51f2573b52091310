"""Scenes composed of real handwritten digits, for dense tasks, without a download.

Several digits of different size and color, which may overlap, are placed on a smooth
background with clutter. A scene depends only on its split and index. Splits share no digits.
"""

import functools

import numpy as np

from keras_spm.arguments import check_integer
from keras_spm.data.digits import IMAGE_SIZE, load_digits
from keras_spm.registry import lookup
from keras_spm.types import Example

CLASS_NAMES = ["background", *map(str, range(10))]
_SPLITS = {"train": 0, "validation": 1, "test": 2}

_DIGITS = (4, 7)  # Lowest and highest number per scene; fewer if there is no room.
_ATTEMPTS = 10  # To place a digit.
_SIDES = (0.32, 0.55)  # Of a digit, as a fraction of the scene's side.
_MAX_ROTATION = 10  # Degrees.
_MAX_HIDDEN = 0.1  # Highest occluded fraction of a digit.
_DARK = (0, 120)  # Range of each channel of the background.
_LIGHT = (100, 255)  # Range of each channel of the digits.
_CHOICE = 16  # Random colors; a digit takes the one with the highest contrast.
_INK = 0.4  # Level of a scan, from 0 to 1, above which a pixel belongs to the digit.
_CONTRAST = 2.5  # Opacity per level of the scan, whose grays tell narrow loops from blots.
_NOISE = 6  # Standard deviation, levels.


class DigitScenes:
    """A split of the data set, a sequence of dicts that are made on access.

    Fields are `image` (height, width, 3) uint8; `segmentation_map` (height, width) uint8, 0 for
    background and d + 1 for digit d; and for the visible part of each digit `boxes` (digits,
    4) float32, left, top, right and bottom in pixels, `labels` (digits,), from 0 to 9,
    `crowd`, all false, `areas`, and `masks` (digits, height, width) bool.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        count: number of scenes.
        side: height and width of a scene in pixels.
        masks: whether examples have `masks`.

    Raises:
        ValueError: if the split is unknown, there are no scenes, or they are smaller than a
            digit's scan, 32 pixels.
    """

    def __init__(self, split: str, count: int, side: int = 160, masks: bool = True) -> None:
        self._split_number = lookup("split", split, _SPLITS)
        self._digits = getattr(_splits(), split)
        self._count = check_integer("count", count)
        self._side = check_integer("side", side, IMAGE_SIZE)
        self._masks = masks

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        generator = np.random.default_rng([self._split_number, index])
        example = _compose(self._digits, self._side, generator)
        if not self._masks:
            del example["masks"]
        return example


@functools.cache
def _splits():
    return load_digits()


def _compose(digits, side, generator):
    image = _background(side, generator)
    masks, labels, full_areas, colors = [], [], [], []
    for _ in range(generator.integers(*_DIGITS, endpoint=True)):
        choice = generator.integers(len(digits.labels))
        opacity = _digit_opacity(digits.images[choice, ..., 0], side, generator)
        found = _place(opacity > 0.5, masks, full_areas, side, generator)
        if found is None:
            continue
        window, mask, visible = found
        behind = image[window]
        colors.append(_color(behind, colors, generator))
        behind += opacity[..., None] * (colors[-1] - behind)
        masks = [*visible, mask]
        full_areas.append(mask.sum())
        labels.append(digits.labels[choice])
    image += _NOISE * generator.standard_normal(image.shape, "float32")
    masks, labels = np.stack(masks), np.array(labels)
    segmentation_map = np.zeros((side, side), "uint8")
    for mask, label in zip(masks, labels, strict=True):
        segmentation_map[mask] = label + 1
    boxes = np.stack([_box(mask) for mask in masks])
    return {
        "image": image.clip(0, 255).astype("uint8"),
        "segmentation_map": segmentation_map,
        "boxes": boxes,
        "labels": labels,
        "crowd": np.zeros(len(labels), bool),
        "areas": masks.sum(axis=(1, 2)),
        "masks": masks,
    }


def _background(side, generator):
    """A smooth blend of a few random colors, with strokes and spots."""
    from PIL import Image, ImageDraw

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


def _digit_opacity(scan, side, generator):
    """The opacity (size, size) of a rotated and enlarged digit."""
    from PIL import Image

    size = round(generator.uniform(*_SIDES) * side)
    angle = generator.uniform(-_MAX_ROTATION, _MAX_ROTATION)
    digit = Image.fromarray(scan).resize((size, size), Image.Resampling.BICUBIC)
    digit = np.asarray(digit.rotate(angle, Image.Resampling.BILINEAR), "float32")
    return (0.5 + _CONTRAST * (digit / 255 - _INK)).clip(0, 1)


def _place(shape, masks, full_areas, side, generator):
    """Places a digit so that it does not hide too much of the others, or returns `None`."""
    size = len(shape)
    for left, top in generator.integers(0, side - size, (_ATTEMPTS, 2), endpoint=True):
        window = slice(top, top + size), slice(left, left + size)
        mask = np.zeros((side, side), bool)
        mask[window] = shape
        visible = [each & ~mask for each in masks]
        pairs = zip(visible, full_areas, strict=True)
        if all(each.sum() >= (1 - _MAX_HIDDEN) * area for each, area in pairs):
            return window, mask, visible
    return None


def _color(behind, others, generator):
    """The random color that differs most from other digits and from 90 % of the background."""
    colors = generator.uniform(*_LIGHT, (_CHOICE, 3)).astype("float32")
    distances = np.linalg.norm(behind[::4, ::4, None] - colors, axis=-1)
    nearest = np.quantile(distances, 0.1, axis=(0, 1))
    for other in others:
        nearest = np.minimum(nearest, np.linalg.norm(colors - other, axis=-1))
    return colors[nearest.argmax()]


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], "float32")
