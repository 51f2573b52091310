"""How tensors of PyTorch code turn into Keras variables and back."""

import typing

import numpy as np

from keras_spm.weights.resize import cubic
from keras_spm.weights.resize import linear
from keras_spm.weights.resize import resize
from keras_spm.weights.resize import square_side


class Transform(typing.NamedTuple):
    """How tensors turn into variables and back; each side is a list, in a rule's order.

    - `source_shapes(shapes)`: the tensors' shapes for variables of these shapes.
    - `to_keras(arrays, shapes)`: the variables' values. May raise ValueError where a
      resizing cannot be done.
    - `to_torch(values)`: the tensors; `None` where a layout has no place for them.
    - `resized_axes`: the axes along which a tensor may be longer or shorter; it is
      then resized.
    """

    source_shapes: typing.Callable
    to_keras: typing.Callable
    to_torch: typing.Callable | None
    resized_axes: tuple = ()


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

# Convolution: (out, in, height, width) ↔ (height, width, in, out).
CONVOLUTION = _single(
    lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    lambda array, shape: array.transpose(2, 3, 1, 0),
    lambda value: value.transpose(3, 2, 0, 1),
)

# Depthwise convolution: (channels, 1, height, width) ↔ (height, width, channels, 1).
DEPTHWISE = _single(
    lambda shape: (shape[2], shape[3], shape[0], shape[1]),
    lambda array, shape: array.transpose(2, 3, 0, 1),
    lambda value: value.transpose(2, 3, 0, 1),
)

# 1x1 convolution ↔ linear map: (out, in, 1, 1) ↔ (in, out).
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
    lambda shape: (1, 1, *shape),
    lambda array, shape: array[0, 0],
    lambda value: value[None, None],
)


def stacked(transform, count):
    """A transform of `count` tensors that are one tensor in equal parts, along axis 0."""

    def source_shapes(shapes):
        ((rows, *rest),) = transform.source_shapes(shapes)
        return [(rows // count, *rest)] * count

    return Transform(
        source_shapes,
        lambda arrays, shapes: transform.to_keras([np.concatenate(arrays)], shapes),
        lambda values: np.split(transform.to_torch(values)[0], count),
    )


def _grid(rows, size):
    """Rows of a table as a grid, (rows, columns, channels), of the size wanted.

    Raises:
        ValueError: where the rows are not a square grid, nor surely one of that size.
    """
    height, width = size
    if len(rows) == height * width and height != width:
        if round(len(rows) ** 0.5) ** 2 == len(rows):
            raise ValueError(
                f"{len(rows)} rows may be a square grid or the model's of {height} x {width}: "
                "load into a model with a square `pretrain_image_size`"
            )
        return rows.reshape(height, width, -1)
    side = square_side(len(rows))
    grid = rows.reshape(side, side, -1)
    return grid if side == height == width else resize(grid, size, linear)


def _flat(grid):
    """(rows, columns, channels) → (1, rows * columns, channels)."""
    return grid.reshape(1, -1, grid.shape[-1])


# Position embeddings: (1, positions, channels) ↔ (rows, columns, channels).
POSITIONS = Transform(
    lambda shapes: [(1, shapes[0][0] * shapes[0][1], shapes[0][2])],
    lambda arrays, shapes: [_grid(arrays[0][0], shapes[0][:2])],
    lambda values: [_flat(values[0])],
    resized_axes=(1,),
)


def _resized_grid(grid, shape):
    return grid if grid.shape == tuple(shape) else resize(grid, shape[:2], linear)


# The same in our own files: (rows, columns, channels) on both sides.
GRID = Transform(
    lambda shapes: shapes,
    lambda arrays, shapes: [_resized_grid(arrays[0], shapes[0])],
    lambda values: values,
    resized_axes=(0, 1),
)


def _positions_after_class(shapes):
    rows, columns, channels = shapes[0]
    return [(1, 1 + rows * columns, channels)]


# The same with the class token's row first ↔ the grid and the class token's own.
CLASS_AND_POSITIONS = Transform(
    _positions_after_class,
    lambda arrays, shapes: [_grid(arrays[0][0, 1:], shapes[0][:2]), arrays[0][0, 0]],
    lambda values: [np.concatenate([values[1][None, None], _flat(values[0])], axis=1)],
    resized_axes=(1,),
)

# The same for a model without class token: its row is left out, and written as zeros
# where PyTorch's code has it without reading it.
UNUSED_CLASS_AND_POSITIONS = Transform(
    _positions_after_class,
    lambda arrays, shapes: [_grid(arrays[0][0, 1:], shapes[0][:2])],
    lambda values: [np.pad(_flat(values[0]), ((0, 0), (1, 0), (0, 0)))],
    resized_axes=(1,),
)


def _bias_table(table, shape):
    side, new_side = square_side(len(table)), square_side(shape[0])
    if side == new_side:
        return table
    grid = table.reshape(side, side, -1)
    return resize(grid, (new_side, new_side), cubic).reshape(shape)


# Bias by relative position: (offsets, heads), the same on both sides.
BIAS_TABLE = Transform(
    lambda shapes: shapes,
    lambda arrays, shapes: [_bias_table(arrays[0], shapes[0])],
    lambda values: values,
    resized_axes=(0,),
)
