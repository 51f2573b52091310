"""Formats of bounding boxes, converted in NumPy.

`keras.utils.bounding_boxes.convert_format` gives the same numbers, but on the accelerator, with
two transfers for every image.
"""

import numpy as np

from keras_spm.registry import lookup


def _size(box):
    left, top, right, bottom = box
    return right - left, bottom - top


def _center(box):
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


# {name: function of (left, top, right, bottom)}
BOX_FORMATS = {
    "xyxy": lambda box: box,
    "yxyx": lambda box: (box[1], box[0], box[3], box[2]),
    "xywh": lambda box: (*box[:2], *_size(box)),
    "center_xywh": lambda box: (*_center(box), *_size(box)),
    "center_yxhw": lambda box: (*_center(box)[::-1], *_size(box)[::-1]),
}


def from_xyxy(boxes: np.ndarray, bounding_box_format: str) -> np.ndarray:
    """Converts boxes (..., 4) from left, top, right and bottom to another format, in pixels.

    Raises:
        ValueError: if the format is unknown.
    """
    convert = lookup("bounding_box_format", bounding_box_format, BOX_FORMATS)
    return np.stack(convert(tuple(np.moveaxis(boxes, -1, 0))), axis=-1)
