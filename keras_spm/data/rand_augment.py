"""RandAugment on single images, with the operations and strengths that the families train with."""

import functools

import numpy as np

_STRONGEST = 10.0
_PROBABILITY = 0.5  # That an operation which was chosen takes place.


def rand_augmented(image, generator, magnitude, fill, deviation=0.5, count=2):
    """Changes an image by operations chosen at random.

    Of each operation that is chosen half take place, with a strength drawn from a normal
    distribution. They are those of timm's policy `rand-m9-mstd0.5-inc1`, whose severity
    rises with the strength, for magnitude 9, deviation 0.5 and two operations.

    Args:
        image: `PIL.Image` in RGB.
        generator: `numpy.random.Generator`.
        magnitude: float from 0 to 10, mean of the strength.
        fill: (red, green, blue) ints, of what comes in from outside.
        deviation: float, of the strength, which is cut at 0 and 10.
        count: int, operations chosen; one may be chosen twice.

    Returns:
        `PIL.Image` of the same size.

    Reference:
        Cubuk et al., "RandAugment" (arXiv 1909.13719); timm's `auto_augment.py`.
    """
    known = list(operations().values())
    for choice in generator.integers(len(known), size=count):
        if generator.random() < _PROBABILITY:
            strength = np.clip(generator.normal(magnitude, deviation), 0, _STRONGEST)
            sign = 1 if generator.random() < 0.5 else -1
            image = known[choice](image, float(strength) / _STRONGEST, sign, fill)
    return image


@functools.cache
def operations():
    """Returns {name: function of an image, the strength from 0 to 1, 1 or -1, and the fill}."""
    from PIL import Image
    from PIL import ImageEnhance
    from PIL import ImageOps

    def plain(function):
        return lambda image, strength, sign, fill: function(image, strength)

    def enhanced(kind):
        def apply(image, strength, sign, fill):
            return kind(image).enhance(max(0.1, 1 + 0.9 * strength * sign))

        return apply

    def moved(matrix):
        def apply(image, strength, sign, fill):
            # Maps each point of the result to a point of the image.
            to_source = matrix(strength * sign, image)
            resample = Image.Resampling.BICUBIC
            affine = Image.Transform.AFFINE
            return image.transform(image.size, affine, to_source, resample, fillcolor=fill)

        return apply

    def turned(image, strength, sign, fill):
        return image.rotate(30 * strength * sign, Image.Resampling.BICUBIC, fillcolor=fill)

    def brightened(image, strength):
        levels = np.arange(256)
        dark = levels < 128
        levels[dark] = np.minimum(levels[dark] + int(110 * strength), 255)
        return image.point(np.tile(levels, 3).tolist())

    def posterized(image, strength):
        # Pillow's own refuses to keep no bit at all, which the strongest does: black.
        kept = 256 - 2 ** (4 + int(4 * strength))
        return image.point((np.tile(np.arange(256), 3) & kept).tolist())

    return {
        "auto_contrast": plain(lambda image, strength: ImageOps.autocontrast(image)),
        "equalize": plain(lambda image, strength: ImageOps.equalize(image)),
        "invert": plain(lambda image, strength: ImageOps.invert(image)),
        "rotate": turned,
        "posterize": plain(posterized),
        "solarize": plain(
            lambda image, strength: ImageOps.solarize(image, 256 - int(256 * strength))
        ),
        "solarize_add": plain(brightened),
        "color": enhanced(ImageEnhance.Color),
        "contrast": enhanced(ImageEnhance.Contrast),
        "brightness": enhanced(ImageEnhance.Brightness),
        "sharpness": enhanced(ImageEnhance.Sharpness),
        "shear_x": moved(lambda amount, image: (1, 0.3 * amount, 0, 0, 1, 0)),
        "shear_y": moved(lambda amount, image: (1, 0, 0, 0.3 * amount, 1, 0)),
        "translate_x": moved(lambda amount, image: (1, 0, 0.45 * amount * image.width, 0, 1, 0)),
        "translate_y": moved(lambda amount, image: (1, 0, 0, 0, 1, 0.45 * amount * image.height)),
    }
