"""Masks of objects in COCO's run-length encoding (RLE), by pycocotools."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from keras_spm.data.readers import InvalidAnnotation

# Of a polygon, in longer sides of the image: pycocotools walks along it pixel by pixel.
_MAX_DISTANCE = 10
_NO_RUNS = "malformed run lengths"


def encode_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Returns the RLE of the union of polygons, each x0, y0, x1, y1, … in pixels.

    Raises:
        InvalidAnnotation: for a polygon far outside of the image.
    """
    limit = _MAX_DISTANCE * max(height, width)
    if any(abs(number) > limit for polygon in polygons for number in polygon):
        raise InvalidAnnotation("polygon far outside of the image")
    functions = _functions()
    polygons = [[float(number) for number in polygon] for polygon in polygons]
    return functions.merge(functions.frPyObjects(polygons, height, width))["counts"]


def encode_counts(counts: str | Sequence[int], height: int, width: int) -> bytes:
    """Returns the RLE of the `counts` of a COCO file: a list, or a compressed string.

    Raises:
        InvalidAnnotation: for a string that is not the runs of a mask of this size.
    """
    if not isinstance(counts, str):
        mask = {"size": [height, width], "counts": list(counts)}
        return _functions().frPyObjects(mask, height, width)["counts"]
    # pycocotools does not check: it would write outside of the memory of the mask.
    if sum(_run_lengths(counts)) != height * width:
        raise InvalidAnnotation("mask of another size than its image")
    return counts.encode()


def encode_mask(mask: np.ndarray) -> bytes:
    """Returns the RLE of a mask (height, width)."""
    return _functions().encode(np.asfortranarray(mask, "uint8"))["counts"]


def decode_masks(encoded: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """Returns masks (objects, height, width) bool."""
    functions, masks = _functions(), np.empty((len(encoded), height, width), bool)
    for mask, counts in zip(masks, encoded, strict=True):
        mask[:] = functions.decode({"size": [height, width], "counts": counts})
    return masks


def _run_lengths(counts):
    """Returns the lengths of the runs in a string of 5 bits per character, low bits first.

    The sixth bit says that a number continues, and the highest bit of a number is its sign. From
    the fourth on, a number is the difference to the length two runs before.
    """
    lengths, value, shift = [], 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise InvalidAnnotation(_NO_RUNS)
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift or min(lengths, default=-1) < 0:
        raise InvalidAnnotation(_NO_RUNS)
    return lengths


def _functions() -> ModuleType:
    """Returns pycocotools' functions of masks."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "Masks of objects need pycocotools: run `pip install 'keras-spm[coco]'`."
        ) from error
    return mask
