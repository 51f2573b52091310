"""Augmentation for semantic segmentation: one image and its class map at a time."""

import numpy as np

from keras_spm.data.preprocessing import read_image

_UNLABELLED = 255
_ATTEMPTS = 10


class SegmentationAugmentation:
    """Resizes, crops, flips and recolours, as Semantic FPN is trained on ADE20K.

    Resized is by a random factor times the one that fits the image, its ratio kept, into
    `base_size`. Of random crops the first is taken in which no class has more than
    `largest_share` of the labelled pixels, or the tenth. What a crop lacks is filled with
    black and unlabelled pixels.

    Args:
        crop_size: int, height and width of the result.
        base_size: (longer, shorter) side.
        scales: (least, largest) factor.
        largest_share: float.
        flip: float, probability of being mirrored.
        recolour: bool, whether brightness, contrast, saturation and hue change, each with
            probability one half.

    Reference:
        The segmentation settings of the PVT authors' code.
    """

    def __init__(
        self,
        crop_size=512,
        base_size=(2048, 512),
        scales=(0.5, 2.0),
        largest_share=0.75,
        flip=0.5,
        recolour=True,
    ):
        self.crop_size = crop_size
        self.base_size = base_size
        self.scales = scales
        self.largest_share = largest_share
        self.flip = flip
        self.recolour = recolour

    def __call__(self, example, generator):
        """Augments an example.

        Args:
            example: object with `image`, a path, `PIL.Image` or array, and `class_map`
                (height, width), 255 where unlabelled.
            generator: `numpy.random.Generator`.

        Returns:
            (image, class map): (crop_size, crop_size, 3) and (crop_size, crop_size) uint8.
        """
        image, class_map = self._resized(read_image(example.image), example.class_map, generator)
        image, class_map = self._cropped(image, class_map, generator)
        if generator.random() < self.flip:
            image, class_map = image[:, ::-1], class_map[:, ::-1]
        if self.recolour:
            image = _recoloured(image, generator)
        return self._padded(image, 0), self._padded(class_map, _UNLABELLED)

    def _resized(self, image, class_map, generator):
        from PIL import Image

        factor = generator.uniform(*self.scales)
        longer, shorter = max(image.size), min(image.size)
        factor *= min(self.base_size[0] / longer, self.base_size[1] / shorter)
        size = tuple(max(1, round(length * factor)) for length in image.size)
        class_map = Image.fromarray(class_map).resize(size, Image.Resampling.NEAREST)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR)), np.asarray(class_map)

    def _cropped(self, image, class_map, generator):
        ranges = [max(length - self.crop_size, 0) + 1 for length in class_map.shape]
        for _ in range(_ATTEMPTS):
            top, left = generator.integers(0, ranges)
            crop = (slice(top, top + self.crop_size), slice(left, left + self.crop_size))
            counts = np.bincount(class_map[crop].ravel(), minlength=256)[:_UNLABELLED]
            if counts.max() <= self.largest_share * counts.sum():
                break
        return image[crop], class_map[crop]

    def _padded(self, array, value):
        missing = [(0, self.crop_size - length) for length in array.shape[:2]]
        missing += [(0, 0)] * (array.ndim - 2)
        return np.pad(array, missing, constant_values=value)


def _recoloured(image, generator):
    """Changes of brightness by up to 32 levels, contrast and saturation by half, hue by 36°."""
    from PIL import Image

    pixels = image.astype("float32")
    if generator.random() < 0.5:
        pixels = pixels + generator.uniform(-32, 32)
    if generator.random() < 0.5:
        pixels = pixels * generator.uniform(0.5, 1.5)
    colours = Image.fromarray(pixels.clip(0, 255).astype("uint8")).convert("HSV")
    hue, saturation, value = (np.asarray(each, "float32") for each in colours.split())
    if generator.random() < 0.5:
        saturation = (saturation * generator.uniform(0.5, 1.5)).clip(0, 255)
    if generator.random() < 0.5:
        hue = (hue + generator.uniform(-36, 36) * 256 / 360) % 256
    channels = np.stack([hue, saturation, value], axis=-1).astype("uint8")
    return np.asarray(Image.fromarray(channels, "HSV").convert("RGB"))
