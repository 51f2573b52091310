"""Augmentation for semantic segmentation."""

import numpy as np

from keras_spm.arguments import check_integer, check_number
from keras_spm.data import transforms
from keras_spm.data.bands import RGB
from keras_spm.data.images import read_image
from keras_spm.types import Example

_IGNORED = 255
_ATTEMPTS = 10


class SegmentationAugmentation:
    """Randomly resizes, crops, flips and recolors, as Semantic FPN is trained on ADE20K.

    Crops are drawn until no class has more than `cat_max_ratio` of the labeled pixels, at most
    ten times. Smaller images are padded with black and ignored pixels.

    Args:
        crop_size: height and width of the result.
        scale: (longer, shorter) side that the image is resized into, with its aspect ratio kept.
        ratio_range: (lowest, highest) random factor of that size.
        cat_max_ratio: highest fraction of one class in a crop.
        flip: probability of a horizontal flip.
        color_jitter: whether brightness, contrast, saturation and hue change, each with
            probability 0.5. Images of other channels than RGB have no saturation and hue.
        channels: number of channels of the images.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        The segmentation settings of the PVT authors' code.
    """

    def __init__(
        self,
        crop_size: int = 512,
        scale: tuple[int, int] = (2048, 512),
        ratio_range: tuple[float, float] = (0.5, 2.0),
        cat_max_ratio: float = 0.75,
        flip: float = 0.5,
        color_jitter: bool = True,
        channels: int = RGB,
    ) -> None:
        self.crop_size = check_integer("crop_size", crop_size)
        self.scale = _checked_pair("scale", scale)
        self.ratio_range = _checked_pair("ratio_range", ratio_range)
        if self.scale[0] < self.scale[1] or self.ratio_range[0] > self.ratio_range[1]:
            raise ValueError(
                "`scale` must be (longer, shorter) and `ratio_range` (lowest, highest). "
                f"Received: scale={scale}, ratio_range={ratio_range}"
            )
        self.cat_max_ratio = check_number("cat_max_ratio", cat_max_ratio, 0, 1, False)
        self.flip = check_number("flip", flip, 0, 1)
        self.color_jitter = color_jitter
        self.channels = check_integer("channels", channels)

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        """Returns the example with `image` and `segmentation_map` of `crop_size`.

        Raises:
            ValueError: if the image and its (height, width) or (height, width, 1) map differ in
                size.
        """
        example = self._resize(example, generator)
        example = transforms.crop(example, self._crop_box(example["segmentation_map"], generator))
        if generator.random() < self.flip:
            example = transforms.horizontal_flip(example)
        if self.color_jitter:
            example = {**example, "image": _color_jitter(example["image"], generator)}
        return transforms.pad(example, (self.crop_size, self.crop_size))

    def _resize(self, example, generator):
        image = read_image(example["image"], channels=self.channels)
        segmentation_map = example["segmentation_map"]
        if segmentation_map.shape == (image.height, image.width, 1):
            segmentation_map = segmentation_map[..., 0]
        if segmentation_map.shape != (image.height, image.width):
            raise ValueError(
                "`segmentation_map` must have the size of its image, (height, width) "
                f"{(image.height, image.width)}. Received: shape {segmentation_map.shape}"
            )
        factor = generator.uniform(*self.ratio_range)
        longer, shorter = max(image.size), min(image.size)
        factor *= min(self.scale[0] / longer, self.scale[1] / shorter)
        size = tuple(max(1, round(length * factor)) for length in (image.height, image.width))
        example = {**example, "image": image, "segmentation_map": segmentation_map}
        return transforms.resize(example, size)

    def _crop_box(self, segmentation_map, generator):
        height, width = segmentation_map.shape
        ranges = [max(length - self.crop_size, 0) + 1 for length in (height, width)]
        for _ in range(_ATTEMPTS):
            top, left = map(int, generator.integers(0, ranges))
            bottom, right = min(top + self.crop_size, height), min(left + self.crop_size, width)
            pixels = segmentation_map[top:bottom, left:right].ravel()
            counts = np.bincount(pixels, minlength=_IGNORED + 1)
            counts[_IGNORED] = 0
            if counts.max() <= self.cat_max_ratio * counts.sum():
                break
        return left, top, right, bottom


def _checked_pair(name, values):
    """Returns two positive numbers."""
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ValueError(f"`{name}` must be two numbers. Received: {name}={values!r}")
    return tuple(check_number(name, value, allow_minimum=False) for value in values)


def _color_jitter(image, generator):
    """Changes brightness by up to 32 levels, contrast and saturation by 50 %, hue by 36°."""
    from PIL import Image

    pixels = image.astype("float32")
    if generator.random() < 0.5:
        pixels = pixels + generator.uniform(-32, 32)
    if generator.random() < 0.5:
        pixels = pixels * generator.uniform(0.5, 1.5)
    pixels = pixels.clip(0, 255).astype("uint8")
    if pixels.shape[-1] != RGB:
        return pixels
    colors = Image.fromarray(pixels).convert("HSV")
    hue, saturation, value = (np.asarray(each, "float32") for each in colors.split())
    if generator.random() < 0.5:
        saturation = (saturation * generator.uniform(0.5, 1.5)).clip(0, 255)
    if generator.random() < 0.5:
        hue = (hue + generator.uniform(-36, 36) * 256 / 360) % 256
    channels = np.stack([hue, saturation, value], axis=-1).astype("uint8")
    return np.asarray(Image.fromarray(channels, "HSV").convert("RGB"))
