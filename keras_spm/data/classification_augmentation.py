"""Augmentation for image classification: single images, then batches."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from keras_spm.arguments import check_integer, check_number
from keras_spm.data.bands import Bands
from keras_spm.data.images import ImageLike, PilImage, read_image
from keras_spm.data.images import image_size as size_of

_ATTEMPTS = 10
_RATIOS = (3 / 4, 4 / 3)  # Aspect ratios of crops.
_ERASED_AREAS = (0.02, 1 / 3)  # As fractions of the image.
_ERASED_RATIOS = (0.3, 1 / 0.3)
_MAX_MAGNITUDE = 10.0
# Of `rand_augment`, on images of other channels than RGB.
OPERATIONS_OF_BANDS = (
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "brightness", "contrast"),
)
_OPERATION_PROBABILITY = 0.5


class ClassificationAugmentation:
    """Crops, flips, augments and erases, as PVT and Swin are trained on ImageNet.

    A crop of random area and aspect ratio is resized bicubically. Large JPEG files are decoded
    at 1/2, 1/4 or 1/8 of their size, as long as the crop is not smaller than the result.
    Erased pixels are normally distributed with `mean` and `std`, clipped to [0, 255].

    Args:
        image_size: height and width of the result.
        crop_scale: smallest area of a crop as a fraction of the image, above 0 and up to 1.
        flip: probability of a horizontal flip.
        randaugment_magnitude: magnitude of `rand_augment`, from 0 to 10; 0 disables it.
        random_erasing: probability that a rectangle is erased.
        mean: floats, one per channel, of the network's normalization, for pixels scaled to
            [0, 1]. Images are read with as many channels.
        std: floats, likewise.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        timm's `create_transform`, which ignores color jitter if RandAugment is on, so
        `color_jitter=0.4` of the official recipes has no effect.
    """

    def __init__(
        self,
        image_size: int,
        crop_scale: float,
        flip: float,
        randaugment_magnitude: float,
        random_erasing: float,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.image_size = check_integer("image_size", image_size)
        self.crop_scale = check_number("crop_scale", crop_scale, 0, 1, allow_minimum=False)
        self.flip = check_number("flip", flip, 0, 1)
        self.randaugment_magnitude = check_number(
            "randaugment_magnitude", randaugment_magnitude, 0, _MAX_MAGNITUDE
        )
        self.random_erasing = check_number("random_erasing", random_erasing, 0, 1)
        self.mean = 255 * np.array([check_number("mean", value, 0, 1) for value in mean])
        self.std = 255 * np.array(
            [check_number("std", value, allow_minimum=False) for value in std]
        )
        if not len(self.mean) == len(self.std) > 0:
            raise ValueError(
                "`mean` and `std` must have one number per channel. "
                f"Received: mean={mean}, std={std}"
            )

    def __call__(self, image: ImageLike, generator: np.random.Generator) -> np.ndarray:
        """Returns (image_size, image_size, channels) uint8.

        Args:
            image: path of an image file, `EncodedImage`, or (height, width, channels) uint8.
            generator: source of the random numbers.
        """
        from PIL import ImageOps

        image = self._random_resized_crop(image, generator)
        if generator.random() < self.flip:
            image = ImageOps.mirror(image)
        if self.randaugment_magnitude:
            fill = tuple(np.round(self.mean).astype(int).tolist())
            image = rand_augment(image, generator, self.randaugment_magnitude, fill)
        if generator.random() < self.random_erasing:
            return self._erase(np.array(image), generator)
        return np.asarray(image)

    def _random_resized_crop(self, image, generator):
        from PIL import Image

        is_array = isinstance(image, np.ndarray)
        height, width = image.shape[:2] if is_array else size_of(image)
        box = random_crop(height, width, generator, self.crop_scale)
        left, top, right, bottom = box
        min_scale = min(1.0, self.image_size / min(right - left, bottom - top))
        image = read_image(image, min_scale, len(self.mean))
        if image.size != (width, height):
            scale = np.tile(np.divide(image.size, (width, height)), 2)
            box = np.round(box * scale).astype(int).tolist()
        return image.crop(box).resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def _erase(self, pixels, generator):
        area = self.image_size**2
        for _ in range(_ATTEMPTS):
            rows, columns = _random_sides(area, generator, _ERASED_AREAS, _ERASED_RATIOS)
            if rows < self.image_size and columns < self.image_size:
                top = generator.integers(self.image_size - rows, endpoint=True)
                left = generator.integers(self.image_size - columns, endpoint=True)
                noise = generator.normal(self.mean, self.std, (rows, columns, len(self.mean)))
                pixels[top : top + rows, left : left + columns] = noise.round().clip(0, 255)
                break
        return pixels


def random_crop(
    height: int, width: int, generator: np.random.Generator, crop_scale: float
) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of a crop of random area and aspect ratio.

    If ten attempts do not fit into the image, it is the largest central crop with the nearest
    allowed aspect ratio. `crop_scale` is the smallest area as a fraction of the image.
    """
    for _ in range(_ATTEMPTS):
        columns, rows = _random_sides(height * width, generator, (crop_scale, 1), _RATIOS)
        if 0 < columns <= width and 0 < rows <= height:
            top = int(generator.integers(height - rows, endpoint=True))
            left = int(generator.integers(width - columns, endpoint=True))
            return left, top, left + columns, top + rows
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[1])
    columns, rows = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def _random_sides(area, generator, fractions, ratios):
    """Two sides with a random fraction of an area; the logarithm of their ratio is uniform."""
    area = area * generator.uniform(*fractions)
    ratio = math.exp(generator.uniform(*map(math.log, ratios)))
    return round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))


def rand_augment(
    image: PilImage | Bands,
    generator: np.random.Generator,
    magnitude: float,
    fill: tuple[int, ...],
    std: float = 0.5,
    num_operations: int = 2,
) -> PilImage | Bands:
    """Applies random operations to an image.

    Each drawn operation is applied with probability 0.5. Magnitude 9 with the default arguments
    is timm's policy `rand-m9-mstd0.5-inc1`. Images of other channels than RGB are only rotated,
    sheared, translated, and changed in the brightness and contrast of each channel.

    Args:
        image: in RGB, or `Bands`.
        generator: source of the random numbers.
        magnitude: mean magnitude, from 0 to 10.
        fill: (red, green, blue) of pixels from outside the image, or the value of each channel.
        std: standard deviation of the normally distributed magnitude, clipped to [0, 10].
        num_operations: number of operations, drawn with replacement.

    Reference:
        Cubuk et al., "RandAugment" (arXiv 1909.13719); timm's `auto_augment.py`.
    """
    functions = list(operations().values())
    if isinstance(image, Bands):
        functions = [_on_each_band(operations()[name]) for name in OPERATIONS_OF_BANDS]
    for choice in generator.integers(len(functions), size=num_operations):
        if generator.random() < _OPERATION_PROBABILITY:
            strength = np.clip(generator.normal(magnitude, std), 0, _MAX_MAGNITUDE)
            sign = 1 if generator.random() < 0.5 else -1
            image = functions[choice](image, float(strength) / _MAX_MAGNITUDE, sign, fill)
    return image


def _on_each_band(function):
    def apply(image, strength, sign, fill):
        return image.map(lambda band, value: function(band, strength, sign, value), fill)

    return apply


@functools.cache
def operations() -> dict[str, Callable]:
    """Returns {name: function (image, strength from 0 to 1, sign, fill)}."""
    from PIL import Image, ImageEnhance, ImageOps

    def unsigned(function):
        return lambda image, strength, sign, fill: function(image, strength)

    def enhance(kind):
        def apply(image, strength, sign, fill):
            return kind(image).enhance(max(0.1, 1 + 0.9 * strength * sign))

        return apply

    def affine(matrix):
        def apply(image, strength, sign, fill):
            # Maps each point of the result to a point of the source.
            to_source = matrix(strength * sign, image)
            kind, resample = Image.Transform.AFFINE, Image.Resampling.BICUBIC
            return image.transform(image.size, kind, to_source, resample, fillcolor=fill)

        return apply

    def rotate(image, strength, sign, fill):
        return image.rotate(30 * strength * sign, Image.Resampling.BICUBIC, fillcolor=fill)

    def solarize_add(image, strength):
        levels = np.arange(256)
        dark = levels < 128
        levels[dark] = np.minimum(levels[dark] + int(110 * strength), 255)
        return image.point(np.tile(levels, 3).tolist())

    def posterize(image, strength):
        # Pillow's function refuses to keep 0 bits, which the highest strength does: black.
        kept = 256 - 2 ** (4 + int(4 * strength))
        return image.point((np.tile(np.arange(256), 3) & kept).tolist())

    return {
        "auto_contrast": unsigned(lambda image, strength: ImageOps.autocontrast(image)),
        "equalize": unsigned(lambda image, strength: ImageOps.equalize(image)),
        "invert": unsigned(lambda image, strength: ImageOps.invert(image)),
        "rotate": rotate,
        "posterize": unsigned(posterize),
        "solarize": unsigned(
            lambda image, strength: ImageOps.solarize(image, 256 - int(256 * strength))
        ),
        "solarize_add": unsigned(solarize_add),
        "color": enhance(ImageEnhance.Color),
        "contrast": enhance(ImageEnhance.Contrast),
        "brightness": enhance(ImageEnhance.Brightness),
        "sharpness": enhance(ImageEnhance.Sharpness),
        "shear_x": affine(lambda amount, image: (1, 0.3 * amount, 0, 0, 1, 0)),
        "shear_y": affine(lambda amount, image: (1, 0, 0, 0.3 * amount, 1, 0)),
        "translate_x": affine(lambda amount, image: (1, 0, 0.45 * amount * image.width, 0, 1, 0)),
        "translate_y": affine(lambda amount, image: (1, 0, 0, 0, 1, 0.45 * amount * image.height)),
    }


class Mixing:
    """Mixup or cutmix of a batch with itself in reverse order.

    Args:
        mixup: parameter of the beta distribution of the first image's weight; 0 disables it.
        cutmix: parameter of the beta distribution of the area that is kept; 0 disables it.
            With both, each batch uses one of them with equal probability.

    Raises:
        ValueError: if a parameter is negative, or both are 0.

    Reference:
        timm's `Mixup` in mode `batch`. Zhang et al., "mixup" (arXiv 1710.09412); Yun et al.,
        "CutMix" (arXiv 1905.04899).
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        self.mixup = check_number("mixup", mixup)
        self.cutmix = check_number("cutmix", cutmix)
        if not mixup and not cutmix:
            raise ValueError("`mixup` or `cutmix` must be above 0. Received: mixup=0, cutmix=0")

    def __call__(
        self, batch: tuple[np.ndarray, np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns mixed (images, labels), both float32.

        Args:
            batch: ((count, height, width, channels) uint8, (count, classes) float32).
            generator: source of the random numbers.
        """
        images, labels = batch
        images = images.astype("float32")
        use_cutmix = self.cutmix and (not self.mixup or generator.random() < 0.5)
        alpha = self.cutmix if use_cutmix else self.mixup
        weight = generator.beta(alpha, alpha)
        if use_cutmix:
            rows, columns = _random_box(*images.shape[1:3], 1 - weight, generator)
            images[:, rows, columns] = images[::-1, rows, columns].copy()
            replaced = (rows.stop - rows.start) * (columns.stop - columns.start)
            weight = 1 - replaced / math.prod(images.shape[1:3])
        else:
            images = weight * images + (1 - weight) * images[::-1]
        return images, weight * labels + (1 - weight) * labels[::-1]


def _random_box(height, width, area, generator):
    """Rows and columns of a box with a fraction of the area around a random point, clipped."""
    slices = []
    for length in (height, width):
        half = int(length * math.sqrt(area)) // 2
        center = generator.integers(length)
        slices.append(slice(int(max(center - half, 0)), int(min(center + half, length))))
    return slices
