"""Batches of images of different sizes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.data import transforms
from keras_spm.data.images import ImageLike, read_image
from keras_spm.types import Example

# Padding: ImageNet's mean color, which normalization maps to about zero.
_FILL = (124, 116, 104)


@dataclasses.dataclass(frozen=True)
class ImageGeometry:
    """Heights and widths of an image, which is at the top left of its batch."""

    original: tuple[int, int]
    resized: tuple[int, int]  # In the batch.

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
    """

    def __init__(
        self,
        min_size: int | None = None,
        max_size: int | None = None,
        size_divisor: int = 32,
        resize_to_divisor: bool = False,
    ) -> None:
        self.min_size = min_size
        self.max_size = max_size
        self.size_divisor = size_divisor
        self.resize_to_divisor = resize_to_divisor

    def __call__(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, list[ImageGeometry]]:
        """Returns ((count, height, width, 3) uint8, an `ImageGeometry` per image).

        Args:
            images: sequence of paths, `PIL.Image.Image`s, or arrays (height, width, 3) with
                pixels in [0, 255].
        """
        examples, geometries = self.transform([{"image": image} for image in images])
        return np.stack([example["image"] for example in examples]), geometries

    def transform(self, examples: list[Example]) -> tuple[list[Example], list[ImageGeometry]]:
        """Returns examples with all fields resized and padded to one size, and geometries."""
        examples = [{**each, "image": read_image(each["image"])} for each in examples]
        geometries = []
        for number, example in enumerate(examples):
            original = example["image"].height, example["image"].width
            geometries.append(ImageGeometry(original, self._resized_size(original)))
            examples[number] = transforms.resize(example, geometries[-1].resized)
        sizes = zip(*(geometry.resized for geometry in geometries), strict=True)
        batch_size = tuple(self._round_up(max(lengths)) for lengths in sizes)
        return [transforms.pad(each, batch_size, _FILL) for each in examples], geometries

    def _resized_size(self, size):
        if self.min_size is not None:
            scale = self.min_size / min(size)
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
        }


class DetectionBatching:
    """Makes batches of examples with objects, with targets for `ObjectDetector`.

    Args:
        images: how images are resized and padded.
        max_objects: number of object slots per image in the targets.
        bounding_box_format: of the targets, a name of `keras.utils.bounding_boxes`.
    """

    def __init__(
        self, images: ImageBatching, max_objects: int = 100, bounding_box_format: str = "xyxy"
    ) -> None:
        self.images = images
        self.max_objects = max_objects
        self.bounding_box_format = bounding_box_format

    def __call__(self, examples: Sequence[Example]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Makes a batch.

        Args:
            examples: sequence of dicts: `image`; `boxes` (objects, 4), left, top, right and
                bottom in its pixels; `labels`, `crowd` and `areas` (objects,); optionally
                `masks` (objects, height, width).

        Returns:
            (images, targets): (count, height, width, 3) uint8; and a dict of

            - `boxes` (count, max_objects, 4), in pixels of the batch;
            - `labels` (count, max_objects), -1 in unused slots; `crowd`; and `areas`, in
              pixels of the original image;
            - `size` (count, 2), the original height and width, and `scale` (count, 2), the
              ratios of the sizes in the batch to them;
            - `masks` (count, max_objects, height, width) bool, if examples have masks.

        Raises:
            ValueError: if an image has more than `max_objects` objects.
        """
        most = max(len(example["labels"]) for example in examples)
        if most > self.max_objects:
            raise ValueError(
                "`max_objects` must be at least the number of objects in an image. "
                f"Received: max_objects={self.max_objects}, and an image with {most}"
            )
        fields = ("image", "boxes", "labels", "crowd", "areas", "masks")
        examples, geometries = self.images.transform(
            [{name: example[name] for name in fields if name in example} for example in examples]
        )
        images = np.stack([example["image"] for example in examples])
        slots = (len(examples), self.max_objects)
        targets = {
            "boxes": np.zeros((*slots, 4), "float32"),
            "labels": np.full(slots, -1, "int32"),
            "crowd": np.zeros(slots, bool),
            "areas": np.zeros(slots, "float32"),
        }
        if "masks" in examples[0]:
            targets["masks"] = np.zeros((*slots, *images.shape[1:3]), bool)
        for number, example in enumerate(examples):
            boxes = keras.utils.bounding_boxes.convert_format(
                example["boxes"], "xyxy", self.bounding_box_format
            )
            example["boxes"] = keras.ops.convert_to_numpy(boxes)
            for name, target in targets.items():
                target[number, : len(example["labels"])] = example[name]
        targets["scale"] = np.array([geometry.scale for geometry in geometries], "float32")
        targets["size"] = np.array([geometry.original for geometry in geometries], "int32")
        return images, targets
