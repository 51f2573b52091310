"""Batches of images of many sizes."""

import dataclasses

import keras
import numpy as np

from keras_spm.data.preprocessing import read_image

# What padding is filled with: ImageNet's mean color, which normalization makes about zero.
_FILL = (124, 116, 104)


@dataclasses.dataclass(frozen=True)
class ImageGeometry:
    """How an image lies in its batch: top left.

    Attributes:
        original: (height, width) of the image as it came.
        resized: (height, width) that it takes in the batch.
    """

    original: tuple
    resized: tuple

    @property
    def scale(self):
        """(vertical, horizontal) size in the batch, in the original's."""
        return tuple(new / old for new, old in zip(self.resized, self.original, strict=True))


class ImageBatching:
    """Brings images of any sizes into one batch, and remembers how they lie in it.

    Each is resized bilinearly, its ratio kept, until the shorter side is `min_size`
    or the longer one `max_size`, whichever comes first, and padded at the bottom and
    right to the largest, a multiple of `size_divisor`. Instead of being padded to it, an image
    can be enlarged to its own next multiple, which changes its ratio a little.

    JAX compiles a model anew for every size of a batch. A large `size_divisor` leaves few sizes,
    and one from `max_size` on a single one, for more padding: 1344 for sides up to 1333.

    Args:
        min_size: int, or `None` to leave sizes as they are.
        max_size: int, or `None` for no limit.
        divisor: int.
        resize_to_divisor: bool, whether images are enlarged to a multiple of `size_divisor`.
    """

    def __init__(self, min_size=None, max_size=None, size_divisor=32, resize_to_divisor=False):
        self.min_size = min_size
        self.max_size = max_size
        self.size_divisor = size_divisor
        self.resize_to_divisor = resize_to_divisor

    def __call__(self, images):
        """Makes the batch.

        Args:
            images: sequence of paths, `PIL.Image`s, or arrays (height, width, 3) with
                pixels in [0, 255].

        Returns:
            (batch, geometries): (count, height, width, 3) uint8, and an `ImageGeometry`
            for each image.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image.
        """
        images = [read_image(image) for image in images]
        geometries = [
            ImageGeometry((image.height, image.width), self._resized(image.height, image.width))
            for image in images
        ]
        height, width = (
            self._multiple(max(sizes))
            for sizes in zip(*(geometry.resized for geometry in geometries), strict=True)
        )
        batch = np.empty((len(images), height, width, 3), "uint8")
        batch[:] = _FILL
        for place, image, geometry in zip(batch, images, geometries, strict=True):
            rows, columns = geometry.resized
            place[:rows, :columns] = image.resize((columns, rows), _bilinear())
        return batch, geometries

    def _resized(self, height, width):
        sizes = (height, width)
        if self.min_size is not None:
            scale = self.min_size / min(sizes)
            if self.max_size is not None:
                scale = min(scale, self.max_size / max(sizes))
            sizes = tuple(max(1, round(size * scale)) for size in sizes)
        return tuple(map(self._multiple, sizes)) if self.resize_to_divisor else sizes

    def _multiple(self, size):
        return -(-size // self.size_divisor) * self.size_divisor

    def get_config(self):
        """Returns the constructor's arguments, as JSON takes them."""
        return {
            "min_size": self.min_size,
            "max_size": self.max_size,
            "size_divisor": self.size_divisor,
            "resize_to_divisor": self.resize_to_divisor,
        }


class DetectionBatching:
    """Brings annotated images into one batch, with targets as `ObjectDetector` takes them.

    Args:
        images: `ImageBatching`.
        max_objects: int, places for objects in every image's targets.
        bounding_box_format: of the boxes in targets, as `keras.utils.bounding_boxes` names
            them.
    """

    def __init__(self, images, max_objects=100, bounding_box_format="xyxy"):
        self.images = images
        self.max_objects = max_objects
        self.bounding_box_format = bounding_box_format

    def __call__(self, examples):
        """Makes the batch.

        Args:
            examples: sequence of objects with `image`, as `ImageBatching` takes it, and what
                is in it: `boxes` (objects, 4), left, top, right, bottom in its pixels;
                `labels`, `crowd` and `areas` (objects,).

        Returns:
            (images, targets): (count, height, width, 3) uint8; and a dict of `boxes` (count,
            max_objects, 4) in pixels of the batch, `labels` (count, max_objects), -1 where
            there is no object, `crowd` and `areas` likewise, areas in the image's own
            pixels, `scale` (count, 2), vertical and horizontal size in the batch, in the
            image's own, and `size` (count, 2), height and width of the image as it came.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image, and an image with more objects
                than places.
        """
        batch, geometries = self.images([example.image for example in examples])
        places = (len(examples), self.max_objects)
        targets = {
            "boxes": np.zeros((*places, 4), "float32"),
            "labels": np.full(places, -1, "int32"),
            "crowd": np.zeros(places, bool),
            "areas": np.zeros(places, "float32"),
            "scale": np.array([geometry.scale for geometry in geometries], "float32"),
            "size": np.array([geometry.original for geometry in geometries], "int32"),
        }
        for number, example in enumerate(examples):
            count = len(example.labels)
            if count > self.max_objects:
                raise ValueError(
                    f"`max_objects` must be at least the number of objects in an image. "
                    f"Received: max_objects={self.max_objects}, and an image with {count}"
                )
            scale = np.tile(targets["scale"][number, ::-1], 2)
            targets["boxes"][number, :count] = self._formatted(example.boxes * scale)
            for name in ("labels", "crowd", "areas"):
                targets[name][number, :count] = getattr(example, name)
        return batch, targets

    def _formatted(self, boxes):
        boxes = keras.utils.bounding_boxes.convert_format(boxes, "xyxy", self.bounding_box_format)
        return keras.ops.convert_to_numpy(boxes)


def _bilinear():
    from PIL import Image

    return Image.Resampling.BILINEAR
