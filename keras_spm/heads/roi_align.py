"""RoIAlign: maps of a fixed size for boxes of any size."""

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer
from keras_spm.heads.box_coder import check_boxes
from keras_spm.heads.feature_pyramid import level_number, sorted_levels
from keras_spm.types import Tensor

# Boxes with a side below 2 * 56 pixels (the root of their area) are read from the finest level.
_FINEST_SIDE = 56
# The work for a box is proportional to the cells under it. Boxes are sorted by them; each of
# these groups is computed with the first of these shares of the largest number that is enough.
_GROUPS = (0.0, 0.8, 1.0)
_SHARES = (1, 3, 8)  # Eighths.


def roi_align(
    pyramid: dict[str, Tensor], boxes: Tensor, output_size: int, sampling_ratio: int = 0
) -> Tensor:
    """Returns the features of boxes, each read from the pyramid level that fits its size.

    A box is divided into `output_size` x `output_size` bins. The value of a bin is the mean
    of bilinear samples on a regular grid. Positions are continuous: cell (row, column) is
    centered at (row + 0.5, column + 0.5). Samples at most one cell outside the map have the
    value at its border, others are 0. A box without area has zeros. All shapes are static.

    The mean of bilinear samples is a sum of the cells under the box, weighted by a product of
    a weight for the row and one for the column: each cell is read once. There is no gradient
    with respect to the boxes.

    Args:
        pyramid: {"P2": (batch, height, width, channels), …}.
        boxes: (batch, boxes, 4), xyxy in pixels.
        output_size: int, number of rows and columns of bins.
        sampling_ratio: int, number of samples of a bin along each axis. With 0, as many as
            the bin has cells, rounded up.

    Returns:
        (batch, boxes, output_size, output_size, channels)

    Raises:
        ValueError: for boxes that are not in a batch, or an argument out of range.

    Example:

    >>> pyramid = {"P2": np.ones((1, 16, 16, 8), "float32")}
    >>> boxes = np.array([[[4, 4, 40, 60]]], "float32")
    >>> keras_spm.heads.roi_align(pyramid, boxes, 7).shape
    (1, 1, 7, 7, 8)

    Reference:
        He et al., Mask R-CNN, arXiv 1703.06870, section 3; levels as in Lin et al., Feature
        Pyramid Networks, arXiv 1612.03144, equation 1.
    """
    output_size = check_integer("output_size", output_size)
    sampling_ratio = check_integer("sampling_ratio", sampling_ratio, minimum=0)
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    check_boxes(boxes, boxes[..., 0])
    names = sorted_levels(pyramid)
    channels = pyramid[names[0]].shape[-1]
    batch = ops.shape(boxes)[0]
    maps = [ops.reshape(pyramid[name], (batch, -1, channels)) for name in names]
    cells = ops.reshape(ops.concatenate(maps, axis=1), (-1, channels))
    sizes = [ops.shape(pyramid[name])[1:3] for name in names]
    windows = _windows(boxes, sizes, names, output_size, sampling_ratio)
    order = ops.argsort(windows["cells"], axis=1)
    # TensorFlow does not see that the gradient of all inputs of a branch is not needed.
    windows = {name: ops.stop_gradient(take_rows(each, order)) for name, each in windows.items()}
    count = boxes.shape[1]
    bounds = [None, None]
    if count is not None:
        bounds = sorted({int(count * share) for share in _GROUPS})
    most = _most_cells(sizes)
    pooled = [
        _pool({name: each[:, first:last] for name, each in windows.items()}, cells, most)
        for first, last in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    pooled = take_rows(ops.concatenate(pooled, axis=1), ops.argsort(order, axis=1))
    return ops.reshape(pooled, (batch, -1, output_size, output_size, channels))


def crop_masks(masks: Tensor, boxes: Tensor, indices: Tensor, output_size: int) -> Tensor:
    """Returns RoIAlign of one mask for each box, (batch, boxes, output_size, output_size).

    Computed image by image, as float32 masks of all boxes of a batch may not fit the memory.

    Args:
        masks: (batch, masks, height, width), bool or any number.
        boxes: (batch, boxes, 4), xyxy in pixels of the masks.
        indices: (batch, boxes) ints, of the mask of each box.
        output_size: int, number of rows and columns of bins.
    """
    height, width = ops.shape(masks)[2:4]

    def crop(image):
        masks, boxes, indices = image
        rows = _axis_weights(boxes[:, 1], boxes[:, 3], 0, height, height, output_size, 0)
        columns = _axis_weights(boxes[:, 0], boxes[:, 2], 0, width, width, output_size, 0)
        masks = ops.cast(ops.take(masks, indices, axis=0), "float32")
        return ops.matmul(ops.transpose(rows, (0, 2, 1)), ops.matmul(masks, columns))

    boxes = ops.stop_gradient(ops.cast(boxes, "float32")) - 0.5
    return ops.map(crop, (ops.convert_to_tensor(masks), boxes, ops.cast(indices, "int32")))


def _windows(boxes, sizes, names, bins, sampling_ratio):
    """Returns what is known of the cells under each box, all (batch, boxes, …).

    `cells`: their number; `columns`: of them in a row; `stride`: from a row to the next one;
    `first`: index of the first cell; `row_weights` and `column_weights` (…, cells along the
    axis, bins), from the first cell of the window on.
    """
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    scales = ops.sqrt(sides[..., 0] * sides[..., 1]) / _FINEST_SIDE
    levels = ops.floor(ops.log2(scales + 1e-6))
    levels = ops.cast(ops.clip(levels, 0, len(names) - 1), "int32")

    def of_level(values, dtype="int32"):
        values = ops.stack([backend.scalar(value, dtype) for value in values])
        return backend.take(values, levels, axis=0)

    heights, widths = (of_level(each) for each in zip(*sizes, strict=True))
    starts = [0]
    for height, width in sizes:
        starts.append(starts[-1] + height * width)
    images = ops.arange(ops.shape(boxes)[0], dtype="int32")[:, None]
    first = of_level(starts[:-1]) + images * starts[-1]
    scales = of_level([0.5 ** level_number(name) for name in names], "float32")
    boxes = boxes * scales[..., None] - 0.5

    weights, counts, firsts = [], [], []
    for axis, lengths in (1, heights), (0, widths):
        start, end = boxes[..., axis], boxes[..., axis + 2]
        _, _, step = _samples(start, end, bins, sampling_ratio)
        low, high = (
            ops.clip(ops.cast(ops.floor(each), "int32"), 0, lengths - 1)
            for each in (start + step / 2, end - step / 2 + 1)
        )
        most = sizes[0][1 - axis]  # The finest level has the most cells along an axis.
        weights.append(_axis_weights(start, end, low, lengths, most, bins, sampling_ratio))
        counts.append(high - low + 1)
        firsts.append(low)
    return {
        "cells": counts[0] * counts[1],
        "columns": counts[1],
        "stride": widths,
        "first": first + firsts[0] * widths + firsts[1],
        "row_weights": weights[0],
        "column_weights": weights[1],
    }


def _samples(start, end, bins, sampling_ratio):
    """Returns the size of a bin, the samples in it and the step between them along an axis."""
    bin_size = ops.maximum(end - start, 0) / bins
    if sampling_ratio:
        return bin_size, ops.full_like(bin_size, sampling_ratio), bin_size / sampling_ratio
    count = ops.ceil(bin_size)
    return bin_size, count, bin_size / ops.maximum(count, 1)


def _axis_weights(start, end, first, size, length, bins, sampling_ratio):
    """Returns the weights of cells in the mean of the samples of each bin, along one axis.

    A sample between the centers of two cells, at a distance f from the first one, has the
    weight 1 - f there and f at the second one. So the weight of a cell follows from the number
    of samples and the sum of f between it and its neighbors. The samples are equidistant.

    Args:
        start, end: (…), of the boxes, in cells from the center of the first cell of the map.
        first: (…) ints or 0, the cell to begin with.
        size: (…) ints or an int, number of cells of the map.
        length: int, number of cells.
        bins, sampling_ratio: ints.

    Returns:
        (…, length, bins)
    """
    bin_size, count, step = _samples(start, end, bins, sampling_ratio)
    starts = start[..., None] + ops.arange(bins, dtype="float32") * bin_size[..., None]
    starts, step, count = starts[..., None, :], step[..., None, None], count[..., None, None]
    starts = starts + step / 2
    first, size = (ops.cast(each, "float32")[..., None] for each in (first, size))
    # From the cell before the first one to that after the last one.
    cells = ops.cast(ops.arange(-1, length + 1, dtype="int32"), "float32") + first
    # Samples at -1 and at the size of the map still count.
    # LiteRT has no index with a new axis where two sizes are unknown.
    bounds = ops.expand_dims(ops.clip(cells, -1, size * (1 + 2e-7)), -1)
    before = ops.ceil((bounds - starts) / ops.maximum(step, 1e-12))
    before = ops.clip(before, 0, count)
    counts = before[..., 1:, :] - before[..., :-1, :]
    indices = (before[..., 1:, :] + before[..., :-1, :] - 1) / 2
    cells = ops.expand_dims(cells[..., :-1], -1)
    sums = counts * (starts - cells + indices * step)
    # Beyond the centers of the first and the last cell, the weight is theirs alone.
    sums = ops.where(cells < 0, counts, ops.where(cells >= size[..., None] - 1, 0.0, sums))
    weights = counts[..., 1:, :] - sums[..., 1:, :] + sums[..., :-1, :]
    return weights / ops.maximum(count, 1)


def _most_cells(sizes):
    """Returns the largest number of cells that can be under a box.

    On all levels but the coarsest, a box has an area of at most 28 * 28 cells. With the
    borders, its samples touch less than (height + 3) * (width + 3) cells. The finest level is
    the largest.
    """
    limit = 2 * _FINEST_SIDE // 4
    (height, width), *_ = sizes
    finer = (limit + 3) ** 2 + 3 * backend.max_size(height, width)
    finer = backend.min_size(height * width, finer)
    height, width = sizes[-1]
    coarsest = height * width
    if keras.config.backend() == "jax" and not isinstance(coarsest, int):
        return coarsest + finer  # A bound, too: JAX would compare unknown sizes for hours.
    return backend.max_size(coarsest, finer)


def _pool(windows, cells, most):
    """Returns the sums over the cells under boxes, (batch, boxes, bins * bins * channels)."""
    if backend.is_exporting():
        # Formats have no such branches, or not of arrays of unknown size.
        return _pooling(windows, most)(cells)
    numbers = [-(-most * share // _SHARES[-1]) for share in _SHARES]
    needed = ops.max(windows["cells"])
    choice = sum(ops.cast(needed > number, "int32") for number in numbers[:-1])
    branches = [_pooling(windows, number) for number in numbers]
    return ops.switch(choice, branches, cells)


def _pooling(windows, number):
    def pool(cells):
        batch, boxes = ops.shape(windows["cells"])
        indices = ops.arange(number, dtype="int32")
        columns = windows["columns"][..., None]
        is_inside = indices < windows["cells"][..., None]
        # Cells beyond the window are the first one with a weight of 0.
        rows = ops.where(is_inside, indices // columns, 0)
        columns = ops.where(is_inside, indices % columns, 0)
        positions = windows["first"][..., None] + rows * windows["stride"][..., None] + columns
        # Unlike that of `ops.take`, this gradient has the same size in all branches.
        values = take_rows(cells, ops.reshape(positions, (-1,)))
        values = ops.reshape(values, (batch, boxes, number, values.shape[-1]))
        row_weights = take_rows(windows["row_weights"], rows)
        column_weights = take_rows(windows["column_weights"], columns)
        row_weights = ops.where(ops.expand_dims(is_inside, -1), row_weights, 0.0)
        weights = ops.expand_dims(row_weights, -1) * ops.expand_dims(column_weights, -2)
        bins = weights.shape[-1]
        weights = ops.cast(ops.reshape(weights, (batch, boxes, -1, bins * bins)), values.dtype)
        weights = ops.stop_gradient(weights)
        pooled = ops.matmul(ops.transpose(weights, (0, 1, 3, 2)), values)
        return ops.reshape(pooled, (batch, boxes, bins * bins * values.shape[-1]))

    return pool


def take_rows(array: Tensor, indices: Tensor) -> Tensor:
    """Returns `array[..., indices, :]` for each of the leading axes, by one gather of rows.

    XLA under TensorFlow refuses the gradient of `ops.take_along_axis`.

    Args:
        array: (…, rows) or (…, rows, *row).
        indices: (…, taken).
    """
    *leading, taken = ops.shape(indices)
    rank = len(leading)
    rows, *row = ops.shape(array)[rank:]
    total = 1
    for length in leading:
        total = total * length
    offsets = ops.reshape(ops.arange(total, dtype="int32") * rows, (*leading, 1))
    width = 1
    for length in row:
        width = width * length
    table = ops.reshape(array, (-1, width))
    taken_rows = ops.take(table, ops.cast(indices, "int32") + offsets, axis=0)
    return ops.reshape(taken_rows, (*leading, taken, *row))
