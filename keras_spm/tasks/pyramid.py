"""From raw images to a backbone's feature maps, as dense tasks begin."""

import keras

from keras_spm.layers.image_normalization import ImageNormalization


def pyramid_inputs(backbone, levels, mean, standard_deviation):
    """Starts a functional model.

    Args:
        backbone: a functional model with `pyramid_outputs`.
        levels: names of those wanted.
        mean, standard_deviation: see `ImageNormalization`.

    Returns:
        (images, maps): the symbolic images in the backbone's data format, and {level:
        symbolic map (batch, height, width, channels)}.

    Raises:
        ValueError: where the backbone lacks a level.
    """
    dtype, data_format = backbone.dtype_policy, data_format_of(backbone)
    normalization = ImageNormalization(
        mean, standard_deviation, data_format=data_format, dtype=dtype, name="normalization"
    )
    outputs = _pyramid_outputs(backbone, levels)
    features = keras.Model(backbone.input, outputs, name="features")
    images = keras.Input(backbone.input.shape[1:], name="images")
    maps = features(normalization(images))
    if data_format == "channels_first":
        to_last = keras.layers.Permute((2, 3, 1), dtype=dtype)
        maps = {level: to_last(each) for level, each in maps.items()}
    return images, maps


def data_format_of(backbone):
    """Returns where a backbone's channels are; one that does not say has Keras's default."""
    return getattr(backbone, "data_format", keras.config.image_data_format())


def _pyramid_outputs(backbone, levels):
    outputs = dict(backbone.pyramid_outputs)
    if list(outputs) == ["P1", "P2", "P3", "P4"]:
        # KerasHub's MiT counts its stages, not how often they have halved the image.
        outputs = dict(zip(("P2", "P3", "P4", "P5"), outputs.values(), strict=True))
    if not set(levels) <= set(outputs):
        raise ValueError(
            f"`backbone` must have {', '.join(levels)} in its `pyramid_outputs`. "
            f"Received: {type(backbone).__name__} with {', '.join(outputs)}"
        )
    return {level: outputs[level] for level in levels}
