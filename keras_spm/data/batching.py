"""Batches of images of different sizes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_spm.arguments import check_integer
from keras_spm.data import transforms
from keras_spm.data.bands import RGB, rgb_to_channels
from keras_spm.data.box_formats import BOX_FORMATS, from_xyxy
from keras_spm.data.images import ImageLike, read_image
from keras_spm.registry import lookup
from keras_spm.types import Example

# Padding: ImageNet's mean color, which normalization maps to about zero.
_FILL = (123.675, 116.28, 103.53)
_FIELDS = ("image", "boxes", "labels", "crowd", "areas")


@dataclasses.dataclass(frozen=True)
class ImageGeometry:
    """Heights and widths of an image, which is at the top left of its batch."""

    original: tuple[int, int]
    resized: tuple[int, int]  # In the batch.
    corner: tuple[int, int] = (0, 0)  # Of a crop of the resized image: its first row and column.

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) ratio of the resized to the original size."""
        return tuple(new / old for new, old in zip(self.resized, self.original, strict=True))


class ImageBatching:
    """Resizes and pads images of any size into one batch.

    Images are resized bilinearly with their aspect ratio kept, then padded at the bottom and
    right to the largest size in the batch, rounded up to a multiple of `size_divisor`.

    JAX recompiles a model for every batch size. A large `size_divisor` leaves few sizes, for
    more padding: 1344 leaves a single one for sides up to 1333.

    Args:
        min_size: target of the shorter side, or `None` to keep sizes.
        max_size: limit of the longer side, or `None` for no limit.
        size_divisor: the batch's height and width are multiples of it.
        resize_to_divisor: whether each image is also resized to its next multiple of
            `size_divisor`, which changes its aspect ratio slightly.
        channels: number of channels of the images. A task sets it to that of its backbone.

    Raises:
        ValueError: if a number is not a positive int, or `min_size` is above `max_size`.
    """

    def __init__(
        self,
        min_size: int | None = None,
        max_size: int | None = None,
        size_divisor: int = 32,
        resize_to_divisor: bool = False,
        channels: int = RGB,
    ) -> None:
        self.min_size = None if min_size is None else check_integer("min_size", min_size)
        self.max_size = None if max_size is None else check_integer("max_size", max_size)
        if None not in (min_size, max_size) and min_size > max_size:
            raise ValueError(
                "`min_size` must be at most `max_size`. "
                f"Received: min_size={min_size}, max_size={max_size}"
            )
        self.size_divisor = check_integer("size_divisor", size_divisor)
        self.resize_to_divisor = resize_to_divisor
        self.channels = check_integer("channels", channels)

    def __call__(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, list[ImageGeometry]]:
        """Returns ((count, height, width, channels) uint8, an `ImageGeometry` per image).

        Args:
            images: sequence of paths, `PIL.Image.Image`s, or arrays (height, width, channels)
                with pixels in [0, 255].

        Raises:
            FileNotFoundError: if a path does not exist.
            ValueError: if there are no images, or one is not readable or has other channels.
        """
        examples, geometries = self.transform([{"image": image} for image in images])
        return np.stack([example["image"] for example in examples]), geometries

    def transform(self, examples: list[Example]) -> tuple[list[Example], list[ImageGeometry]]:
        """Returns examples with all fields resized and padded to one size, and geometries."""
        if not len(examples):
            raise ValueError("A batch must have at least one image. Received: none")
        examples = [
            {**each, "image": read_image(each["image"], channels=self.channels)}
            for each in examples
        ]
        fill = tuple(round(value) for value in rgb_to_channels(_FILL, self.channels))
        geometries = []
        for number, example in enumerate(examples):
            original = example["image"].height, example["image"].width
            geometries.append(ImageGeometry(original, self._resized_size(original)))
            examples[number] = transforms.resize(example, geometries[-1].resized)
        sizes = zip(*(geometry.resized for geometry in geometries), strict=True)
        batch_size = tuple(self._round_up(max(lengths)) for lengths in sizes)
        return [transforms.pad(each, batch_size, fill) for each in examples], geometries

    def _resized_size(self, size):
        scale = 1 if self.min_size is None else self.min_size / min(size)
        if self.max_size is not None:
            scale = min(scale, self.max_size / max(size))
        size = tuple(max(1, round(length * scale)) for length in size)
        return tuple(map(self._round_up, size)) if self.resize_to_divisor else size

    def _round_up(self, length):
        return -(-length // self.size_divisor) * self.size_divisor

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            "min_size": self.min_size,
            "max_size": self.max_size,
            "size_divisor": self.size_divisor,
            "resize_to_divisor": self.resize_to_divisor,
            "channels": self.channels,
        }


class DetectionBatching:
    """Makes batches of examples with objects, with targets for `ObjectDetector`.

    Args:
        images: how images are resized and padded.
        max_objects: number of object slots per image in the targets.
        bounding_box_format: of the targets, in pixels, as in `keras.utils.bounding_boxes`:
            `"xyxy"`, `"yxyx"`, `"xywh"`, `"center_xywh"` or `"center_yxhw"`.

    Raises:
        ValueError: if an argument is not one of these.
    """

    def __init__(
        self, images: ImageBatching, max_objects: int = 100, bounding_box_format: str = "xyxy"
    ) -> None:
        if not isinstance(images, ImageBatching):
            raise ValueError(f"`images` must be an ImageBatching. Received: images={images!r}")
        lookup("bounding_box_format", bounding_box_format, BOX_FORMATS)
        self.images = images
        self.max_objects = check_integer("max_objects", max_objects)
        self.bounding_box_format = bounding_box_format

    def __call__(self, examples: Sequence[Example]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Makes a batch.

        Args:
            examples: sequence of dicts: `image`; `boxes` (objects, 4), left, top, right and
                bottom in its pixels; `labels`, `crowd` and `areas` (objects,); optionally
                `masks` (objects, height, width).

        Returns:
            (images, targets): (count, height, width, channels) uint8; and a dict of

            - `boxes` (count, max_objects, 4), in pixels of the batch;
            - `labels` (count, max_objects), -1 in unused slots; `crowd`; and `areas`, in
              pixels of the original image;
            - `size` (count, 2), the original height and width, and `scale` (count, 2), the
              ratios of the sizes in the batch to them;
            - `masks` (count, max_objects, height, width) bool, if examples have masks.

        Raises:
            ValueError: if there are no examples, an image has more than `max_objects` objects,
                only some examples have masks, or the objects are invalid: their fields are
                missing or of different lengths, labels are not ints from 0, or boxes are not
                finite, empty or outside of the image.
        """
        with_masks = {"masks" in example for example in examples}
        if len(with_masks) > 1:
            raise ValueError("All examples of a batch must have `masks`, or none.")
        for example in examples:
            _check_fields(example)
        most = max((len(example["labels"]) for example in examples), default=0)
        if most > self.max_objects:
            raise ValueError(
                "`max_objects` must be at least the number of objects in an image. "
                f"Received: max_objects={self.max_objects}, and an image with {most}"
            )
        fields = (*_FIELDS, "masks") if with_masks == {True} else _FIELDS
        given = [{name: example[name] for name in fields} for example in examples]
        examples, geometries = self.images.transform(given)
        for example, geometry in zip(given, geometries, strict=True):
            _check_boxes(np.asarray(example["boxes"]), *geometry.original)
        images = np.stack([example["image"] for example in examples])
        slots = (len(examples), self.max_objects)
        targets = {
            "boxes": np.zeros((*slots, 4), "float32"),
            "labels": np.full(slots, -1, "int32"),
            "crowd": np.zeros(slots, bool),
            "areas": np.zeros(slots, "float32"),
        }
        if "masks" in fields:
            targets["masks"] = np.zeros((*slots, *images.shape[1:3]), bool)
        for number, example in enumerate(examples):
            example["boxes"] = from_xyxy(example["boxes"], self.bounding_box_format)
            for name, target in targets.items():
                target[number, : len(example["labels"])] = example[name]
        targets["scale"] = np.array([geometry.scale for geometry in geometries], "float32")
        targets["size"] = np.array([geometry.original for geometry in geometries], "int32")
        return images, targets


def _check_fields(example):
    """Refuses fields of different lengths, which NumPy would broadcast, and invalid labels."""
    if missing := [name for name in _FIELDS if name not in example]:
        raise ValueError(f"An example must have {missing}. Received: {sorted(example)}")
    shapes = {name: np.shape(example[name]) for name in (*_FIELDS[1:], "masks") if name in example}
    count = len(example["labels"])
    expected = {**dict.fromkeys(_FIELDS[2:], (count,)), "boxes": (count, 4)}
    if "masks" in shapes:
        expected["masks"] = (count, *shapes["masks"][1:3])
    if shapes != expected:
        raise ValueError(f"The objects of an example must have {expected}. Received: {shapes}")
    labels = np.asarray(example["labels"])
    if count and (labels.dtype.kind not in "iu" or labels.min() < 0):
        raise ValueError(f"`labels` must be ints of at least 0. Received: {labels}")


def _check_boxes(boxes, height, width):
    # NaN is neither above nor below.
    visible = np.minimum(boxes[:, 2:], (width, height)) > np.maximum(boxes[:, :2], 0)
    if not (np.isfinite(boxes).all() and visible.all()):
        raise ValueError(
            "`boxes` must be finite left, top, right and bottom in pixels, with an area inside "
            f"the image of width {width} and height {height}. Received: {boxes.tolist()}"
        )
