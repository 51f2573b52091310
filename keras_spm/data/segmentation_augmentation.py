"""Augmentation for semantic segmentation: one image and its segmentation map at a time."""

import numpy as np

from keras_spm.data.preprocessing import read_image

_UNLABELED = 255
_ATTEMPTS = 10


class SegmentationAugmentation:
    """Resizes, crops, flips and recolors, as Semantic FPN is trained on ADE20K.

    Resized is by a random factor times the one that fits the image, its ratio kept, into
    `scale`. Of random crops the first is taken in which no class has more than
    `cat_max_ratio` of the labeled pixels, or the tenth. What a crop lacks is filled with
    black and unlabeled pixels.

    Args:
        crop_size: int, height and width of the result.
        scale: (longer, shorter) side.
        ratio_range: (least, largest) factor.
        cat_max_ratio: float.
        flip: float, probability of being mirrored.
        color_jitter: bool, whether brightness, contrast, saturation and hue change, each with
            probability one half.

    Reference:
        The segmentation settings of the PVT authors' code.
    """

    def __init__(
        self,
        crop_size=512,
        scale=(2048, 512),
        ratio_range=(0.5, 2.0),
        cat_max_ratio=0.75,
        flip=0.5,
        color_jitter=True,
    ):
        self.crop_size = crop_size
        self.scale = scale
        self.ratio_range = ratio_range
        self.cat_max_ratio = cat_max_ratio
        self.flip = flip
        self.color_jitter = color_jitter

    def __call__(self, example, generator):
        """Augments an example.

        Args:
            example: object with `image`, a path, `PIL.Image` or array, and `segmentation_map`
                (height, width), 255 where unlabeled.
            generator: `numpy.random.Generator`.

        Returns:
            (image, segmentation map): (crop_size, crop_size, 3) and (crop_size, crop_size) uint8.
        """
        image, segmentation_map = self._resized(
            read_image(example.image), example.segmentation_map, generator
        )
        image, segmentation_map = self._cropped(image, segmentation_map, generator)
        if generator.random() < self.flip:
            image, segmentation_map = image[:, ::-1], segmentation_map[:, ::-1]
        if self.color_jitter:
            image = _color_jittered(image, generator)
        return self._padded(image, 0), self._padded(segmentation_map, _UNLABELED)

    def _resized(self, image, segmentation_map, generator):
        from PIL import Image

        factor = generator.uniform(*self.ratio_range)
        longer, shorter = max(image.size), min(image.size)
        factor *= min(self.scale[0] / longer, self.scale[1] / shorter)
        size = tuple(max(1, round(length * factor)) for length in image.size)
        segmentation_map = Image.fromarray(segmentation_map).resize(size, Image.Resampling.NEAREST)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR)), np.asarray(
            segmentation_map
        )

    def _cropped(self, image, segmentation_map, generator):
        ranges = [max(length - self.crop_size, 0) + 1 for length in segmentation_map.shape]
        for _ in range(_ATTEMPTS):
            top, left = generator.integers(0, ranges)
            crop = (slice(top, top + self.crop_size), slice(left, left + self.crop_size))
            counts = np.bincount(segmentation_map[crop].ravel(), minlength=256)[:_UNLABELED]
            if counts.max() <= self.cat_max_ratio * counts.sum():
                break
        return image[crop], segmentation_map[crop]

    def _padded(self, array, value):
        missing = [(0, self.crop_size - length) for length in array.shape[:2]]
        missing += [(0, 0)] * (array.ndim - 2)
        return np.pad(array, missing, constant_values=value)


def _color_jittered(image, generator):
    """Changes of brightness by up to 32 levels, contrast and saturation by half, hue by 36°."""
    from PIL import Image

    pixels = image.astype("float32")
    if generator.random() < 0.5:
        pixels = pixels + generator.uniform(-32, 32)
    if generator.random() < 0.5:
        pixels = pixels * generator.uniform(0.5, 1.5)
    colors = Image.fromarray(pixels.clip(0, 255).astype("uint8")).convert("HSV")
    hue, saturation, value = (np.asarray(each, "float32") for each in colors.split())
    if generator.random() < 0.5:
        saturation = (saturation * generator.uniform(0.5, 1.5)).clip(0, 255)
    if generator.random() < 0.5:
        hue = (hue + generator.uniform(-36, 36) * 256 / 360) % 256
    channels = np.stack([hue, saturation, value], axis=-1).astype("uint8")
    return np.asarray(Image.fromarray(channels, "HSV").convert("RGB"))
