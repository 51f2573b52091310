"""Checks of arguments, images and targets, on the host.

In a compiled graph, a label that is no class would be trained on silently.
"""

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import check_integer
from keras_spm.data.bands import check_pixels, with_channel_axis
from keras_spm.data.batching import ImageBatching
from keras_spm.data.first_batch import to_numpy
from keras_spm.data.images import is_image_file
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.tasks.graph import channels_of, data_format_of, size_of

_CHECKED_IMAGES = 8


def as_images(images: Any, batch_size: int, channels: int) -> tuple[list, bool]:
    """Checks the images of a prediction.

    Args:
        images: a path, a `PIL.Image` or an array (height, width, channels); or several of them.
        batch_size: int, number of images that are predicted at once.
        channels: int, number of channels of the model's images.

    Returns:
        (list of images, whether there is a single image).

    Raises:
        ValueError: for anything else, other channels, and pixels outside of [0, 255].
    """
    check_integer("batch_size", batch_size)
    single = (
        is_image_file(images)
        or hasattr(images, "convert")  # A PIL image.
        or getattr(images, "ndim", None) in (2, 3)
    )
    if not single and not isinstance(images, Iterable):
        raise ValueError(
            "`images` must be a path, a `PIL.Image`, an array (height, width, "
            f"{channels}), or several of them. Received: {images!r}"
        )
    images = [images] if single else list(images)
    for number, image in enumerate(images):
        if hasattr(image, "ndim") and not is_image_file(image):  # `np.str_` is a path.
            images[number] = with_channel_axis(to_numpy(image), channels)
            name = "`images`" if single else f"`images[{number}]`"
            check_pixels(images[number], channels, name)
            check_images(images[number], stacklevel=4)
    return images, single


def check_backbone(backbone: Any) -> None:
    """Raises a `ValueError` unless `backbone` is a model."""
    if not isinstance(backbone, keras.Model):
        raise ValueError(
            "`backbone` must be a model, such as `PVTv2SPM.from_preset(...)`. "
            f"Received: backbone={backbone!r}"
        )


def make_preprocessing(
    value: ImagePreprocessing | dict | None, backbone: keras.Model
) -> ImagePreprocessing | None:
    """Returns the `preprocessing` of a task from the object, a dict of its arguments, or `None`.

    Its `channels` are those of the backbone; if they differ, it is a copy. Without a value,
    images are resized for a backbone of a single size, and keep their size for another.

    Raises:
        ValueError: for anything else, and unknown or invalid arguments.
    """
    size = size_of(backbone)
    if value is None and size is not None:
        value = {"image_size": size}
    return _from_arguments("preprocessing", value, ImagePreprocessing, backbone)


def make_batching(value: ImageBatching | dict | None, backbone: keras.Model) -> ImageBatching:
    """Returns the `batching` of a task; see `make_preprocessing`.

    Without a value, images are resized and padded for a backbone of a single, square size.
    """
    size = size_of(backbone)
    if value is None and size is not None and size[0] == size[1]:
        value = {"min_size": size[0], "max_size": size[0], "size_divisor": size[0]}
    return _from_arguments("batching", value or {}, ImageBatching, backbone)


def _from_arguments(name, value, expected, backbone):
    if value is None:
        return None
    if not isinstance(value, (dict, expected)):
        raise ValueError(
            f"`{name}` must be an `{expected.__name__}`, or a dict of its arguments. "
            f"Received: {name}={value!r}"
        )
    if isinstance(value, dict):
        try:
            value = expected(**value)
        except TypeError as error:
            raise ValueError(f"`{name}` has a wrong argument: {error}") from None
    if value.channels != channels_of(backbone):
        value = copy.copy(value)
        value.channels = channels_of(backbone)
    return value


def check_images(images: np.ndarray, stacklevel: int = 3) -> None:
    """Checks the pixels of the first images of a batch.

    Warns about pixels that are not in [0, 255]: images scaled to [0, 1] look black.

    Raises:
        ValueError: if images are not numbers, or not finite.
    """
    images = images[:_CHECKED_IMAGES]
    if images.dtype == np.uint8 or not images.size:
        return
    if images.dtype.kind not in "biuf" and images.dtype.name != "bfloat16":
        raise ValueError(f"Images must be real numbers. Received: images of {images.dtype}")
    lowest, highest = float(images.min()), float(images.max())
    if not np.isfinite([lowest, highest]).all():
        raise ValueError("Pixels must be finite. Received: images with NaN or infinity")
    if lowest < 0:
        problem = f"negative pixels, such as {lowest:g}: they seem to be normalized"
    elif highest > 255:
        problem = f"pixels above 255, such as {highest:g}: they seem to have 16 bits"
    elif images.dtype.kind in "fb" and 0 < highest <= 1:
        problem = "no pixel above 1: they seem to be scaled to [0, 1]"
    else:
        return
    warnings.warn(
        f"The first images have {problem}. Images must be raw pixels in [0, 255], which the "
        "model normalizes itself.",
        stacklevel=stacklevel,
    )


def check_batch(images: np.ndarray, backbone: keras.Model) -> None:
    """Checks the shape of a batch, and its pixels as `check_images`.

    Raises:
        ValueError: for a single image, other channels than the backbone's, and wrong pixels.
    """
    channels = channels_of(backbone)
    is_first = data_format_of(backbone) == "channels_first"
    if images.ndim != 4 or images.shape[1 if is_first else -1] != channels:
        shape = f"{channels}, height, width" if is_first else f"height, width, {channels}"
        found = ", ".join(map(str, ("batch", *images.shape[1:])))
        raise ValueError(f"Images must be (batch, {shape}). Received: shape ({found})")
    check_images(images, stacklevel=4)


def check_labels(labels: Any, num_classes: int, ignore_class: int | None = None) -> None:
    """Checks integer labels of images, (batch,) or (batch, 1).

    Raises:
        ValueError: for one-hot labels, strings, fractions, and numbers that are no class.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == num_classes > 1:
        raise ValueError(
            "Labels must be integers for this loss, not one-hot. Received: labels of shape "
            f"{labels.shape}. Pass `labels.argmax(axis=-1)`, or compile the model with "
            "`keras.losses.CategoricalCrossentropy(from_logits=True)`."
        )
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        raise ValueError(f"Labels must have shape (batch,). Received: shape {labels.shape}")
    _check_classes("Labels", labels, num_classes, ignore_class)


def check_multi_labels(labels: Any, num_classes: int) -> None:
    """Checks labels of 0 and 1 for every class, (batch, num_classes).

    Raises:
        ValueError: for another shape and values outside of [0, 1].
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.shape[1] != num_classes:
        raise ValueError(
            f"Labels of a multi-label model must have shape (batch, {num_classes}). "
            f"Received: shape {labels.shape}"
        )
    if labels.dtype.kind not in "biuf" or not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            "Labels of a multi-label model must be 0 or 1, or between. "
            f"Received: {labels.dtype} like {labels.flat[:3]}"
        )


def check_segmentation_maps(
    maps: Any, image_size: Sequence[int], num_classes: int, ignore_class: int | None
) -> None:
    """Checks classes of pixels, (batch, height, width) or (batch, height, width, 1).

    Raises:
        ValueError: for another shape, fractions, and numbers that are no class.
    """
    maps = np.asarray(maps)
    if maps.ndim == 4 and maps.shape[-1] == 1:
        maps = maps[..., 0]
    if maps.ndim != 3 or maps.shape[1:] != tuple(image_size):
        height, width = image_size
        raise ValueError(
            f"Segmentation maps must have shape (batch, {height}, {width}), one class per pixel "
            f"of the images. Received: shape {maps.shape}"
        )
    _check_classes("Segmentation maps", maps, num_classes, ignore_class)
    if ignore_class == 255 and num_classes == 2 and set(np.unique(maps)) == {0, 255}:
        warnings.warn(
            "Segmentation maps have only 0 and 255, and 255 is the `ignore_class`: nothing but "
            "class 0 is trained. If 255 marks an object, pass `maps // 255`.",
            stacklevel=3,
        )


def check_image_weights(shape: Sequence[int | None]) -> None:
    """Raises a `ValueError` unless weights have a shape (batch,)."""
    if len(shape) != 1:
        raise ValueError(
            "`sample_weight` must have shape (batch,), a weight for each image. "
            f"Received: shape {tuple(shape)}"
        )


def check_masks(masks: Any, labels: np.ndarray, image_size: Sequence[int]) -> None:
    """Checks the masks of the objects of a batch, (batch, objects, height, width).

    Raises:
        ValueError: for another shape, or values other than 0 and 1.
    """
    masks, expected = np.asarray(masks), (*labels.shape, *image_size)
    if masks.shape != expected:
        raise ValueError(
            f"`masks` must have shape {expected}: a mask of the size of the image for each "
            f"object. Received: shape {masks.shape}"
        )
    if masks.dtype != bool and not np.isin(masks, (0, 1)).all():
        raise ValueError(f"`masks` must be 0 or 1. Received: {np.setdiff1d(masks, (0, 1))[0]}")


def check_detection_targets(
    targets: Any, boxes: np.ndarray, image_size: Sequence[int], num_classes: int
) -> None:
    """Checks the objects of a batch.

    Args:
        targets: dict with `labels` (batch, objects), -1 for padding, and `boxes`.
        boxes: (batch, objects, 4), the boxes as left, top, right and bottom.
        image_size: (height, width) of the batch.
        num_classes: int.

    Raises:
        ValueError: for labels that are no class, and boxes that are not in the image.
    """
    labels = np.asarray(targets["labels"])
    if boxes.shape != (*labels.shape, 4) or labels.ndim != 2:
        raise ValueError(
            "Targets must have `boxes` of shape (batch, objects, 4) and `labels` of shape "
            f"(batch, objects). Received: {boxes.shape} and {labels.shape}"
        )
    _check_classes("Labels of objects", labels, num_classes, ignore_class=-1)
    boxes = boxes[labels >= 0]
    if not boxes.size:
        return
    height, width = image_size
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    faults = {
        "are not finite": ~np.isfinite(boxes).all(axis=1),
        "have no area, or their corners are in another order": (boxes[:, 2:] <= boxes[:, :2]).any(
            axis=1
        ),
        f"have their center outside of the image of {height} x {width} pixels": (
            (centers < 0) | (centers > [width, height])
        ).any(axis=1),
        "have no coordinate above 1: they must be in pixels": (
            np.full(len(boxes), boxes.max() <= 1) & (min(image_size) > 1)
        ),
    }
    for fault, found in faults.items():
        if found.any():
            example = boxes[found.argmax()].tolist()
            raise ValueError(
                f"Boxes must be in pixels, within the image. Received: {found.sum()} of "
                f"{len(boxes)} boxes {fault}, such as {example} (left, top, right, bottom)"
            )


def _check_classes(name, labels, num_classes, ignore_class):
    allowed = f"integers from 0 to {num_classes - 1}"
    if ignore_class is not None:
        allowed += f", or {ignore_class} to be ignored"
    if labels.dtype.kind not in "biuf":
        example = f", such as {labels.ravel()[:1].tolist()[0]!r}" if labels.size else ""
        raise ValueError(f"{name} must be {allowed}. Received: {labels.dtype}{example}")
    valid = (labels >= 0) & (labels < num_classes)
    if labels.dtype.kind == "f":
        valid &= labels == np.floor(labels)
    if ignore_class is not None:
        valid |= labels == ignore_class
    if valid.all():
        return
    wrong = labels[~valid]
    hint = ""
    if (wrong == num_classes).all() and not (labels == 0).any():
        hint = " Labels count from 0, and these seem to count from 1."
    raise ValueError(
        f"{name} must be {allowed}. Received: {wrong.flat[0]} among {labels.size} labels.{hint}"
    )


def check_colors(
    class_colors: Sequence[Sequence[int]] | None, num_classes: int
) -> list[list[int]] | None:
    """Returns a list of colors, each a list of three integers, or `None`."""
    if class_colors is None:
        return None
    colors = np.asarray(class_colors)
    is_integer = np.issubdtype(colors.dtype, np.integer)
    if colors.shape != (num_classes, 3) or not is_integer or (colors != colors.clip(0, 255)).any():
        raise ValueError(
            f"`class_colors` must be {num_classes} colors of three integers from 0 to 255. "
            f"Received: class_colors={class_colors}"
        )
    return colors.tolist()
