"""Augmentation for image classification: one image at a time, then a batch."""

import math

import numpy as np

from keras_spm.data.image_files import image_size
from keras_spm.data.preprocessing import read_image
from keras_spm.data.rand_augment import rand_augmented

_ATTEMPTS = 10
_RATIOS = (3 / 4, 4 / 3)  # Of a crop's sides.
_ERASED_AREAS = (0.02, 1 / 3)  # As shares of the image's.
_ERASED_RATIOS = (0.3, 1 / 0.3)


class ClassificationAugmentation:
    """Crops, mirrors, changes and erases, as PVT and Swin are trained on ImageNet.

    A crop of random area and ratio is resized bicubically. Large JPEG files are decoded at
    a half, a quarter or an eighth of their sides where the crop still is no smaller than
    the result. Noise in the erased part is drawn from a normal distribution with the mean
    and deviation that the network normalizes with, and cut at 0 and 255.

    Args:
        image_size: int, height and width of the result.
        crop_scale: float above 0 and up to 1, of a crop, as a share of the image's.
        flip: float, probability of being mirrored.
        magnitude: float from 0 to 10, of `rand_augmented`; 0 for none.
        erasing: float, probability that a part is erased.
        mean, std: three floats each, for pixels scaled to [0, 1].

    Reference:
        timm's `create_transform`, which leaves color jitter out where there is
        RandAugment; so the official recipes' `color_jitter=0.4` does nothing.
    """

    def __init__(self, image_size, crop_scale, flip, magnitude, erasing, mean, std):
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.flip = flip
        self.magnitude = magnitude
        self.erasing = erasing
        self.mean = 255 * np.array(mean)
        self.std = 255 * np.array(std)

    def __call__(self, image, generator):
        """Augments an image.

        Args:
            image: path of an image file, `EncodedImage`, or (height, width, 3) uint8.
            generator: `numpy.random.Generator`.

        Returns:
            (image_size, image_size, 3) uint8.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image.
        """
        from PIL import ImageOps

        image = self._cropped(image, generator)
        if generator.random() < self.flip:
            image = ImageOps.mirror(image)
        if self.magnitude:
            fill = tuple(np.round(self.mean).astype(int).tolist())
            image = rand_augmented(image, generator, self.magnitude, fill)
        if generator.random() < self.erasing:
            return self._erased(np.array(image), generator)
        return np.asarray(image)

    def _cropped(self, image, generator):
        from PIL import Image

        is_array = isinstance(image, np.ndarray)
        height, width = image.shape[:2] if is_array else image_size(image)
        box = random_crop(height, width, generator, self.crop_scale)
        left, top, right, bottom = box
        share = min(1.0, self.image_size / min(right - left, bottom - top))
        image = read_image(image, share)
        if image.size != (width, height):
            scale = np.tile(np.divide(image.size, (width, height)), 2)
            box = np.round(box * scale).astype(int).tolist()
        return image.crop(box).resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def _erased(self, pixels, generator):
        area = self.image_size**2
        for _ in range(_ATTEMPTS):
            rows, columns = _random_sides(area, generator, _ERASED_AREAS, _ERASED_RATIOS)
            if rows < self.image_size and columns < self.image_size:
                top = generator.integers(self.image_size - rows, endpoint=True)
                left = generator.integers(self.image_size - columns, endpoint=True)
                noise = generator.normal(self.mean, self.std, (rows, columns, 3))
                pixels[top : top + rows, left : left + columns] = noise.round().clip(0, 255)
                break
        return pixels


def random_crop(height, width, generator, crop_scale):
    """Returns (left, top, right, bottom), ints, of a crop of random area and ratio.

    Where ten attempts do not fit into the image, it is the largest crop in its middle that
    has the nearest allowed ratio.

    Args:
        height, width: of the image.
        generator: `numpy.random.Generator`.
        crop_scale: float, as a share of the image's.
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


def _random_sides(area, generator, shares, ratios):
    """Two sides of a random share of an area; their ratio's logarithm is uniform."""
    area = area * generator.uniform(*shares)
    ratio = math.exp(generator.uniform(*map(math.log, ratios)))
    return round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))


class Mixing:
    """Mixes a batch with itself in reverse order: mixup, or cutmix, for a whole batch.

    Args:
        mixup: float, of the beta distribution that the first image's weight is drawn from;
            0 for no mixup.
        cutmix: float, likewise for the area that is not replaced; 0 for no cutmix. Where
            there are both, each batch has one of them, with equal probability.

    Reference:
        timm's `Mixup` in its mode `batch`. Zhang et al., "mixup" (arXiv 1710.09412); Yun et
        al., "CutMix" (arXiv 1905.04899).
    """

    def __init__(self, mixup, cutmix):
        self.mixup = mixup
        self.cutmix = cutmix

    def __call__(self, batch, generator):
        """Mixes a batch.

        Args:
            batch: (images, labels): (count, height, width, 3) uint8 and (count, classes)
                float32.
            generator: `numpy.random.Generator`.

        Returns:
            (images, labels), both float32.
        """
        images, labels = batch
        images = images.astype("float32")
        cuts = self.cutmix and (not self.mixup or generator.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        weight = generator.beta(alpha, alpha)
        if cuts:
            rows, columns = _cut(*images.shape[1:3], 1 - weight, generator)
            images[:, rows, columns] = images[::-1, rows, columns].copy()
            replaced = (rows.stop - rows.start) * (columns.stop - columns.start)
            weight = 1 - replaced / math.prod(images.shape[1:3])
        else:
            images = weight * images + (1 - weight) * images[::-1]
        labels = weight * labels + (1 - weight) * labels[::-1]
        return images, labels


def _cut(height, width, area, generator):
    """The rows and columns that a box of an area's share, about a random point, has inside."""
    slices = []
    for length in (height, width):
        half = int(length * math.sqrt(area)) // 2
        center = generator.integers(length)
        slices.append(slice(int(max(center - half, 0)), int(min(center + half, length))))
    return slices
