"""Collects unlabeled images from any source, and makes batches of them."""

import os
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import argument_error
from keras_spm.data.first_batch import to_numpy
from keras_spm.data.folders import image_files
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.tasks.checks import check_batch
from keras_spm.tasks.graph import channels_of, data_format_of

MIN_IMAGES = 8
_SHIFT = 0.1  # Largest shift of an augmented image, as a share of the side.
_ALLOWED = "an array, a folder of images, images, or a data set that `fit` takes"


def collect_images(
    images: Any, backbone: keras.Model, preprocessing: ImagePreprocessing, max_images: int
) -> np.ndarray:
    """Returns raw pixels, (count, height, width, channels), of at most `max_images` images.

    Args:
        images: array (count, height, width, channels) with pixels in [0, 255], in the data format
            of the backbone; a folder, also with folders inside; a sequence of paths, images of
            Pillow, arrays, or examples with `image`; or a data set of batches as `fit` takes it,
            whose targets are ignored.
        backbone: backbone of the images.
        preprocessing: applied to files and to images of Pillow, and to all other sequences.
        max_images: number of images that are read at most.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: for anything else, images of several sizes, other channels, or fewer than 8
            images.
    """
    if isinstance(images, (str, os.PathLike)):
        if not os.path.isdir(images):
            raise FileNotFoundError(f"`images` must be {_ALLOWED}. {images} is not a folder.")
        paths = image_files(images, recursive=True)
        array = preprocessing(_spread(paths, max_images))
    elif hasattr(images, "shape") and len(images.shape) == 4:
        array = _channels_last(to_numpy(images[:max_images]), backbone)
    elif isinstance(images, (list, tuple)) or _has_examples(images):
        chosen = _spread(images, max_images)
        chosen = [each["image"] if isinstance(each, dict) else each for each in chosen]
        array = preprocessing(chosen)
    elif hasattr(images, "__iter__"):
        array = _from_batches(images, backbone, max_images)
    else:
        raise argument_error("images", _ALLOWED, images)
    if len(array) < MIN_IMAGES:
        raise ValueError(f"`images` must be at least {MIN_IMAGES} images. Received: {len(array)}")
    check_batch(array.transpose(0, 3, 1, 2) if _is_first(backbone) else array, backbone)
    return array


def _is_first(backbone):
    return data_format_of(backbone) == "channels_first"


def _channels_last(batch, backbone):
    return batch.transpose(0, 2, 3, 1) if _is_first(backbone) else batch


def _spread(sequence, count):
    """Returns `count` elements, or all, evenly from the whole sequence, which may be sorted."""
    indices = np.linspace(0, len(sequence) - 1, min(count, len(sequence))).astype(int)
    return [sequence[int(index)] for index in indices]


def _has_examples(images):
    """Whether these are examples, as of `keras_spm.data`, not batches."""
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__") and len(images)):
        return False
    if isinstance(images, keras.utils.PyDataset) or hasattr(images, "collate_fn"):
        return False
    first = images[0]
    return isinstance(first, dict) and np.ndim(first.get("image")) in (0, 3)


def _from_batches(batches, backbone, max_images):
    collected, count = [], 0
    for batch in batches:
        if isinstance(batch, list):  # Of a PyTorch DataLoader.
            batch = tuple(batch)
        pixels, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if isinstance(pixels, dict):
            pixels = pixels.get("image")
        pixels = to_numpy(pixels)
        if getattr(pixels, "ndim", None) != 4:
            raise argument_error("images", f"{_ALLOWED}, of batches of images", batches)
        pixels = _channels_last(pixels, backbone)
        collected.append(pixels[: max_images - count])
        count += len(collected[-1])
        if count >= max_images:
            break
    if len({each.shape[1:] for each in collected}) > 1:
        raise ValueError(
            "`images` must be batches of one size. "
            f"Received: {sorted({each.shape[1:] for each in collected})}"
        )
    return np.concatenate(collected) if collected else np.zeros((0, 1, 1, channels_of(backbone)))


class ShiftedBatches(keras.utils.PyDataset):
    """Batches of images, shuffled in each epoch, and shifted at random.

    Args:
        images: (count, height, width, channels).
        batch_size: int.
        seed: int, or `None` for batches in order and without shifts.
        channels_first: bool, whether batches are (batch, channels, height, width).
    """

    def __init__(
        self, images: np.ndarray, batch_size: int, seed: int | None, channels_first: bool
    ) -> None:
        super().__init__()
        self._images = images
        self._batch_size = min(batch_size, len(images))
        self._seed = seed
        self._channels_first = channels_first
        self._epoch = 0

    def __len__(self) -> int:
        # An incomplete batch would be compiled again.
        full, rest = divmod(len(self._images), self._batch_size)
        return full + (self._seed is None and rest > 0)

    def on_epoch_end(self) -> None:
        self._epoch += 1

    def all(self) -> list[np.ndarray]:
        """Returns all batches."""
        return [self[index] for index in range(len(self))]

    def __getitem__(self, index: int) -> np.ndarray:
        rows = slice(index * self._batch_size, (index + 1) * self._batch_size)
        if self._seed is None:
            batch = self._images[rows].astype("float32")
        else:
            order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._images))
            generator = np.random.default_rng((self._seed, self._epoch, index))
            batch = shift(self._images[order[rows]], generator)
        return batch.transpose(0, 3, 1, 2) if self._channels_first else batch


def shift(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns images that are shifted by up to a tenth of their sides, float32."""
    count, height, width, _ = images.shape
    rows, columns = (max(round(size * _SHIFT), 1) for size in (height, width))
    padding = ((0, 0), (rows, rows), (columns, columns), (0, 0))
    padded = np.pad(images.astype("float32"), padding, "edge")
    tops, lefts = (generator.integers(0, 2 * each + 1, count) for each in (rows, columns))
    shifted = [
        image[top : top + height, left : left + width]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return np.stack(shifted)
