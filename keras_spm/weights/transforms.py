"""Transforms between PyTorch tensors and Keras variables."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RGB = 3  # Channels.


class Transform(NamedTuple):
    """Functions between lists of tensors and lists of variables, in the order of a rule.

    Attributes:
        source_shapes: function from the variables' shapes to the tensors' shapes.
        to_keras: function from (arrays, variables' shapes) to the variables' values. Raises
            ValueError if a table cannot be resized.
        to_torch: function from the variables' values to the tensors; `None` if a layout
            cannot represent them.
        resized_axes: axes along which a tensor may have another size; it is then resized.
        channel_axis: axis of the image's channels of a tensor that may be for RGB images; its
            kernel is then adapted by `adapt_channels`.
    """

    source_shapes: Callable
    to_keras: Callable
    to_torch: Callable | None
    resized_axes: tuple[int, ...] = ()
    channel_axis: int | None = None


def _single(source_shape, to_keras, to_torch):
    """A transform between one tensor and one variable."""
    return Transform(
        lambda shapes: [source_shape(*shapes)],
        lambda arrays, shapes: [to_keras(*arrays, *shapes)],
        lambda values: [to_torch(*values)],
    )


IDENTITY = _single(lambda shape: shape, lambda array, shape: array, lambda value: value)

# Dense: (out, in) ↔ (in, out).
LINEAR = _single(lambda shape: shape[::-1], lambda array, shape: array.T, lambda value: value.T)

# Convolution: (out, in, height, width) ↔ (height, width, in, out). Transposed convolution, whose
# kernels have `in` and `out` the other way round in both: the same.
CONVOLUTION = _single(
    lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    lambda array, shape: array.transpose(2, 3, 1, 0),
    lambda value: value.transpose(3, 2, 0, 1),
)


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns a kernel for RGB images, (height, width, 3, out), for images of other channels.

    For one channel the kernel is summed over its inputs. For more, the inputs are repeated, and
    scaled by `3 / channels`. Both as timm's `adapt_input_conv`.
    """
    if channels == kernel.shape[2]:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % RGB] * np.float32(RGB / channels)


# The first convolution, as `CONVOLUTION`, and in this package's files.
STEM_CONVOLUTION = CONVOLUTION._replace(
    to_keras=lambda arrays, shapes: [adapt_channels(arrays[0].transpose(2, 3, 1, 0), shapes[0][2])],
    channel_axis=1,
)
STEM_KERNEL = IDENTITY._replace(
    to_keras=lambda arrays, shapes: [adapt_channels(arrays[0], shapes[0][2])], channel_axis=2
)

# Depthwise convolution: (channels, 1, height, width) ↔ (height, width, channels, 1).
DEPTHWISE = _single(
    lambda shape: (shape[2], shape[3], shape[0], shape[1]),
    lambda array, shape: array.transpose(2, 3, 0, 1),
    lambda value: value.transpose(2, 3, 0, 1),
)

# 1x1 convolution ↔ dense: (out, in, 1, 1) ↔ (in, out).
POINTWISE = _single(
    lambda shape: (shape[1], shape[0], 1, 1),
    lambda array, shape: array[:, :, 0, 0].T,
    lambda value: value.T[:, :, None, None],
)

# Grouped 1x1 convolution: (groups * outputs, inputs, 1, 1) ↔ (inputs, groups, outputs).
GROUPED = _single(
    lambda shape: (shape[1] * shape[2], shape[0], 1, 1),
    lambda array, shape: array.reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1),
    lambda value: value.transpose(1, 2, 0).reshape(-1, len(value), 1, 1),
)

# Class token: (1, 1, channels) ↔ (channels,).
TOKEN = _single(
    lambda shape: (1, 1, *shape), lambda array, shape: array[0, 0], lambda value: value[None, None]
)


def stacked(transform: Transform, count: int) -> Transform:
    """Returns the transform of `count` tensors of equal size, concatenated along axis 0."""

    def source_shapes(shapes):
        ((rows, *rest),) = transform.source_shapes(shapes)
        return [(rows // count, *rest)] * count

    return Transform(
        source_shapes,
        lambda arrays, shapes: transform.to_keras([np.concatenate(arrays)], shapes),
        lambda values: np.split(transform.to_torch(values)[0], count),
    )


def split(transform: Transform) -> Transform:
    """Returns the transform of one tensor that is several variables, its parts along axis 0."""

    def part_shapes(shapes):
        return [transform.source_shapes([shape])[0] for shape in shapes]

    def source_shapes(shapes):
        parts = part_shapes(shapes)
        return [(sum(part[0] for part in parts), *parts[0][1:])]

    def to_keras(arrays, shapes):
        stops = np.cumsum([part[0] for part in part_shapes(shapes)])[:-1]
        parts = np.split(arrays[0], stops)
        return [
            transform.to_keras([part], [shape])[0]
            for part, shape in zip(parts, shapes, strict=True)
        ]

    def to_torch(values):
        return [np.concatenate([transform.to_torch([value])[0] for value in values])]

    return Transform(source_shapes, to_keras, to_torch)


def flattened_dense(size: int) -> Transform:
    """Returns the transform of a dense layer after flattening maps of size x size.

    (out, channels * size * size) ↔ (size * size * channels, out).
    """
    return _single(
        lambda shape: shape[::-1],
        lambda array, shape: (
            array.reshape(len(array), -1, size, size).transpose(2, 3, 1, 0).reshape(shape)
        ),
        lambda value: (
            value.reshape(size, size, -1, value.shape[1])
            .transpose(3, 2, 0, 1)
            .reshape(value.shape[::-1])
        ),
    )


# Of the patches of a 2x2 window, row by row, those of the official Swin code in its order.
_UNFOLDED_ORDER = [0, 2, 1, 3]


def _from_unfolded(array):
    """Reorders the last axis from (channels, patches) to (patches, channels)."""
    unfolded = array.reshape(*array.shape[:-1], -1, len(_UNFOLDED_ORDER))
    return unfolded[..., _UNFOLDED_ORDER].swapaxes(-1, -2).reshape(array.shape)


def _to_unfolded(value):
    merged = value.reshape(*value.shape[:-1], len(_UNFOLDED_ORDER), -1)
    return merged[..., _UNFOLDED_ORDER, :].swapaxes(-1, -2).reshape(value.shape)


# Norm and dense layer after 2x2 windows that `torch.nn.Unfold` flattens: (4 * channels,) on both
# sides, and (out, 4 * channels) ↔ (4 * channels, out).
UNFOLDED = _single(lambda shape: shape, lambda array, shape: _from_unfolded(array), _to_unfolded)
UNFOLDED_LINEAR = _single(
    lambda shape: shape[::-1],
    lambda array, shape: _from_unfolded(array).T,
    lambda value: _to_unfolded(value.T),
)


def _grid(rows, size):
    """Returns a table's rows as a grid (rows, columns, channels), resized to `size`."""
    height, width = size
    if len(rows) == height * width and height != width:
        if round(len(rows) ** 0.5) ** 2 == len(rows):
            raise ValueError(
                f"{len(rows)} rows may be a square grid or one of {height} x {width}: "
                "load into a model with a square `pretrain_image_size`"
            )
        return rows.reshape(height, width, -1)
    side = _square_side(len(rows))
    return _resize(rows.reshape(side, side, -1), size, _linear)


def _flat(grid):
    return grid.reshape(1, -1, grid.shape[-1])


# Position embeddings: (1, positions, channels) ↔ (rows, columns, channels).
POSITIONS = Transform(
    lambda shapes: [(1, shapes[0][0] * shapes[0][1], shapes[0][2])],
    lambda arrays, shapes: [_grid(arrays[0][0], shapes[0][:2])],
    lambda values: [_flat(values[0])],
    resized_axes=(1,),
)


# Position embeddings in this package's files: (rows, columns, channels) on both sides.
GRID = Transform(
    lambda shapes: shapes,
    lambda arrays, shapes: [_resize(arrays[0], shapes[0][:2], _linear)],
    lambda values: values,
    resized_axes=(0, 1),
)


def _positions_after_class(shapes):
    rows, columns, channels = shapes[0]
    return [(1, 1 + rows * columns, channels)]


# Position embeddings with the class token's row first ↔ the grid and the token's embedding.
CLASS_AND_POSITIONS = Transform(
    _positions_after_class,
    lambda arrays, shapes: [_grid(arrays[0][0, 1:], shapes[0][:2]), arrays[0][0, 0]],
    lambda values: [np.concatenate([values[1][None, None], _flat(values[0])], axis=1)],
    resized_axes=(1,),
)

# The same for a model without class token: the row is ignored, and exported as zeros, since
# the PyTorch code has it but does not read it.
UNUSED_CLASS_AND_POSITIONS = Transform(
    _positions_after_class,
    lambda arrays, shapes: [_grid(arrays[0][0, 1:], shapes[0][:2])],
    lambda values: [np.pad(_flat(values[0]), ((0, 0), (1, 0), (0, 0)))],
    resized_axes=(1,),
)


def _bias_table(table, shape):
    side, new_side = _square_side(len(table)), _square_side(shape[0])
    grid = table.reshape(side, side, -1)
    return _resize(grid, (new_side, new_side), _cubic).reshape(shape)


# Relative position bias: (offsets, heads) on both sides.
BIAS_TABLE = Transform(
    lambda shapes: shapes,
    lambda arrays, shapes: [_bias_table(arrays[0], shapes[0])],
    lambda values: values,
    resized_axes=(0,),
)


def _square_side(count):
    side = math.isqrt(count)
    if count < 1 or side * side != count:
        raise ValueError(f"{count} rows are not a square grid")
    return side


def _resize(grid, size, kernel):
    """Resizes (rows, columns, channels) to (*size, channels) in float64.

    Like PyTorch's `interpolate`, with half-pixel centers and without antialiasing.
    """
    if grid.shape[:2] == tuple(size):
        return grid
    by_rows, by_columns = (
        _matrix(old, new, kernel) for old, new in zip(grid.shape, size, strict=False)
    )
    # One axis at a time: both at once would cost the product of all five sizes.
    rows = np.einsum("hr,rcx->hcx", by_rows, grid, optimize=True)
    return np.einsum("wc,hcx->hwx", by_columns, rows, optimize=True).astype("float32")


def _linear(distance):
    return np.clip(1 - np.abs(distance), 0, None)


def _cubic(distance, a=-0.75):
    """Keys's cubic convolution, with PyTorch's coefficient."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _matrix(old, new, kernel):
    """Returns the (new, old) matrix that resizes one axis."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    reach = np.arange(-1, 3)  # The samples that a cubic kernel covers.
    samples = np.floor(centers).astype(int)[:, None] + reach
    weights = kernel(centers[:, None] - samples)
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(samples, 0, old - 1)), weights)
    return matrix
