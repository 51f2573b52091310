"""Functional graphs from raw images through a backbone to a head."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.backbones import PyramidBackbone
from keras_spm.data.bands import rgb_to_channels
from keras_spm.heads.head import Head
from keras_spm.layers.image_normalization import IMAGENET_MEAN, IMAGENET_STD, ImageNormalization


def connect_backbone(
    backbone: keras.Model, images: keras.KerasTensor, levels: Sequence[str] = ()
) -> tuple[dict[str, keras.KerasTensor], keras.KerasTensor | None]:
    """Applies a backbone to symbolic normalized images.

    Args:
        backbone: a `PyramidBackbone`, whose stages become layers of the new graph, or
            another functional model with `pyramid_outputs`, which becomes one layer.
        images: symbolic images in the backbone's data format.
        levels: names of the pyramid levels to return.

    Returns:
        ({level: symbolic map}, pooled output); the latter is `None` for other models.

    Raises:
        ValueError: if the backbone does not have one of the levels.
    """
    if isinstance(backbone, PyramidBackbone):
        outputs, pooled_output = backbone.connect(images)
    else:
        outputs, pooled_output = dict(backbone.pyramid_outputs), None
        if list(outputs) == ["P1", "P2", "P3", "P4"]:
            # KerasHub's MiT numbers its stages, not the powers of their strides.
            outputs = dict(zip(Head.levels, outputs.values(), strict=True))
    if not set(levels) <= set(outputs):
        raise ValueError(
            f"`backbone` must have {', '.join(levels)} in its `pyramid_outputs`. "
            f"Received: {type(backbone).__name__} with {', '.join(outputs)}"
        )
    outputs = {level: outputs[level] for level in levels}
    if not isinstance(backbone, PyramidBackbone):
        outputs = keras.Model(backbone.input, outputs, name="features")(images)
    return outputs, pooled_output


def connect_head(
    backbone: keras.Model,
    head: keras.layers.Layer,
    head_name: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[keras.KerasTensor, Any]:
    """Returns (images, outputs of the head); the arguments are those of `connect_pyramid`."""
    images, maps = connect_pyramid(backbone, head, head_name, num_classes, mean, std)
    return images, head(maps)


def connect_pyramid(
    backbone: keras.Model,
    head: keras.layers.Layer,
    head_name: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """Builds the graph from raw images to the inputs of a head.

    Args:
        backbone: as in `connect_backbone`.
        head: layer from {level: map} to outputs. If it is unbuilt, its name and dtype policy
            are set; `num_classes` is set if it is `None`.
        head_name, num_classes: see `head`.
        mean, std: see `ImageNormalization`.

    Returns:
        (images, {level: map}): symbolic images in the backbone's data format, and the
        channels_last levels that the head reads.

    Raises:
        ValueError: for a backbone without a level, or a head for other `num_classes`.
    """
    dtype, data_format = backbone.dtype_policy, data_format_of(backbone)
    if getattr(head, "num_classes", num_classes) is None:
        head.num_classes = num_classes
    elif getattr(head, "num_classes", num_classes) != num_classes:
        raise ValueError(
            f"`{head_name}` must be for {num_classes} classes. "
            f"Received: {type(head).__name__} with num_classes={head.num_classes}"
        )
    if not head.built:
        head.name = head_name
        head.dtype_policy = dtype
    normalization = ImageNormalization(
        mean, std, data_format=data_format, dtype=dtype, name="normalization"
    )
    images = keras.Input(backbone.input.shape[1:], name="images")
    maps, _ = connect_backbone(backbone, normalization(images), levels_of(head))
    if data_format == "channels_first":
        to_last = keras.layers.Permute((2, 3, 1), dtype=dtype)
        maps = {level: to_last(each) for level, each in maps.items()}
    return images, maps


def data_format_of(backbone: keras.Model) -> str:
    """Returns a backbone's data format, Keras's default for one that has no such attribute."""
    return getattr(backbone, "data_format", keras.config.image_data_format())


def channels_of(backbone: keras.Model) -> int:
    """Returns the number of channels of a backbone's images; a `ValueError` if it is unknown."""
    shape = tuple(backbone.input.shape)
    channels = shape[1 if data_format_of(backbone) == "channels_first" else -1]
    if channels is None:
        raise ValueError(f"`backbone` must have a fixed number of channels. Received: {shape}")
    return channels


def adapt_statistics(values: Sequence[float], backbone: keras.Model) -> tuple[float, ...]:
    """Returns `mean` or `std` of RGB images for the channels of a backbone's images.

    That is their average for one channel, and the three in turn for more. Values of another
    number of channels are returned unchanged.
    """
    is_rgb = np.shape(values) == (3,)
    return rgb_to_channels(values, channels_of(backbone)) if is_rgb else values


def default_statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None, backbone: keras.Model
) -> tuple[Sequence[float], Sequence[float]]:
    """Returns (mean, std), of ImageNet where they are `None`; see `adapt_statistics`."""
    mean = adapt_statistics(IMAGENET_MEAN, backbone) if mean is None else mean
    std = adapt_statistics(IMAGENET_STD, backbone) if std is None else std
    return mean, std


def size_of(backbone: keras.Model) -> tuple[int, int] | None:
    """Returns the (height, width) of a backbone's images, or `None` if it has several sizes."""
    size = _sides_of(backbone)
    return None if None in size else size


def _sides_of(backbone):
    shape = tuple(backbone.input.shape)
    return shape[2:4] if data_format_of(backbone) == "channels_first" else shape[1:3]


def to_data_format(images: np.ndarray, backbone: keras.Model) -> np.ndarray:
    """Returns a channels_last batch in a backbone's data format."""
    channels_first = data_format_of(backbone) == "channels_first"
    return images.transpose(0, 3, 1, 2) if channels_first else images


def to_batch(images: np.ndarray, backbone: keras.Model) -> np.ndarray:
    """Returns a channels_last batch as the backbone takes it.

    Raises:
        ValueError: if the backbone has images of another size, or they are too small for it.
    """
    size, sides = images.shape[1:3], _sides_of(backbone)
    smallest = getattr(backbone, "smallest_size", 1)
    if any(side not in (None, given) for side, given in zip(sides, size, strict=True)):
        raise ValueError(
            f"Images must have the height and width {sides}. `preprocessing` or `batching` of the "
            f"model can resize them. Received: {size}"
        )
    if min(size) < smallest:
        raise ValueError(
            f"Images must be at least {smallest} pixels high and wide. `preprocessing` or "
            f"`batching` of the model can resize them. Received: {size}"
        )
    return to_data_format(images, backbone)


def levels_of(head: keras.layers.Layer) -> tuple[str, ...]:
    """Returns the names of the pyramid levels that a head reads; all four by default."""
    return getattr(head, "levels", Head.levels)
