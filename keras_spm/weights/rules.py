"""The language of the rule tables in `keras_spm.converters`.

A table is a sequence of rules, each between paths of Keras variables and names of
PyTorch tensors, usually one and one. Placeholders stand for numbers: `{stage}` in a
path is one; the tensor's name may use `{stage}` as it is, `{stage_index}`, one less, or
`{stage_before}`, two less.
"""

import dataclasses
import functools
import re
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
    - `resized_axis`: the axis along which a tensor may be longer or shorter; it is
      then resized.
    """

    source_shapes: typing.Callable
    to_keras: typing.Callable
    to_torch: typing.Callable | None
    resized_axis: int | None = None


def _single(source_shape, to_keras, to_torch):
    """A transform between one tensor and one variable."""
    return Transform(
        lambda shapes: [source_shape(*shapes)],
        lambda arrays, shapes: [to_keras(*arrays, *shapes)],
        lambda values: [to_torch(*values)],
    )


IDENTITY = _single(lambda shape: shape, lambda array, shape: array, lambda value: value)

# Linear: (out, in) ↔ (in, out).
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
                "load into a model with a square `position_image_size`"
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
    resized_axis=1,
)


def _positions_after_class(shapes):
    rows, columns, channels = shapes[0]
    return [(1, 1 + rows * columns, channels)]


# The same with the class token's row first ↔ the grid and the class token's own.
CLASS_AND_POSITIONS = Transform(
    _positions_after_class,
    lambda arrays, shapes: [_grid(arrays[0][0, 1:], shapes[0][:2]), arrays[0][0, 0]],
    lambda values: [np.concatenate([values[1][None, None], _flat(values[0])], axis=1)],
    resized_axis=1,
)

# The same for a model without class token: its row is left out, and written as zeros
# where PyTorch's code has it without reading it.
UNUSED_CLASS_AND_POSITIONS = Transform(
    _positions_after_class,
    lambda arrays, shapes: [_grid(arrays[0][0, 1:], shapes[0][:2])],
    lambda values: [np.pad(_flat(values[0]), ((0, 0), (1, 0), (0, 0)))],
    resized_axis=1,
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
    resized_axis=0,
)


class Binding(typing.NamedTuple):
    """A rule applied to a model: these variables and these tensors."""

    paths: tuple
    names: tuple
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        path: path of a variable, or a tuple of them.
        name: name of a tensor, or a tuple of them.
        transform: how the one side turns into the other.
    """

    path: str | tuple
    name: str | tuple
    transform: Transform = IDENTITY

    @property
    def paths(self):
        """The paths, however many, as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def names(self):
        """The names, however many, as a tuple."""
        return (self.name,) if isinstance(self.name, str) else self.name

    def bind(self, path, variables):
        """Returns the `Binding` of which `path` is the first variable, or None.

        None too where the model lacks one of the rule's further variables.
        """
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        numbers = {}
        for key, value in match.groupdict().items():
            number = int(value)
            numbers |= {key: number, f"{key}_index": number - 1, f"{key}_before": number - 2}
        paths = tuple(each.format(**numbers) for each in self.paths)
        if any(each not in variables for each in paths):
            return None
        names = tuple(each.format(**numbers) for each in self.names)
        return Binding(paths, names, self.transform)

    @functools.cached_property
    def _pattern(self):
        first = re.escape(self.paths[0])
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[0-9]+)", first))

    def under(self, path, name):
        """Returns this rule for a layer at `path`, whose tensors stand under `name`."""
        paths = tuple(f"{path}/{each}" for each in self.paths)
        names = tuple(f"{name}.{each}" for each in self.names)
        return Rule(paths, names, self.transform)

    def renamed(self, rename):
        """Returns this rule with `rename(name)` for each tensor's name."""
        return Rule(self.path, tuple(rename(each) for each in self.names), self.transform)


def affine(path, name, transform):
    """Rules for a kernel and a bias."""
    return (
        Rule(f"{path}/kernel", f"{name}.weight", transform),
        Rule(f"{path}/bias", f"{name}.bias"),
    )


def stacked_linear(path, names):
    """Rules for a linear map that PyTorch's side has in parts, its outputs side by side."""
    count = len(names)
    return (
        Rule(f"{path}/kernel", tuple(f"{name}.weight" for name in names), stacked(LINEAR, count)),
        Rule(f"{path}/bias", tuple(f"{name}.bias" for name in names), stacked(IDENTITY, count)),
    )


def normalization(path, name):
    """Rules for the scale and shift of a normalisation."""
    return Rule(f"{path}/gamma", f"{name}.weight"), Rule(f"{path}/beta", f"{name}.bias")


def batch_normalization(path, name):
    """Rules for a normalisation with running statistics."""
    return (
        *normalization(path, name),
        Rule(f"{path}/moving_mean", f"{name}.running_mean"),
        Rule(f"{path}/moving_variance", f"{name}.running_var"),
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one code base names and shapes a family's tensors.

    Attributes:
        name: what users call it.
        rules: of the backbone's tensors.
        head: rules of the classifier, which may stay out.
        omissible: names of further tensors that a model may have no use for.
        attributes: {name: value} of the model that the code base fixes for all.
        buffers: function of the backbone → {name: array}, what the code base keeps
            with the weights but derives from the architecture.
        bare: whether this is the layout's form for a model without a classifier.
    """

    name: str
    rules: tuple
    head: tuple = ()
    omissible: tuple = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    buffers: typing.Callable = lambda backbone: {}
    bare: bool = False

    def without_prefix(self, prefix):
        """This layout's form for a model without a classifier: no name begins with `prefix`."""
        return dataclasses.replace(
            self,
            bare=True,
            rules=tuple(
                rule.renamed(lambda name: name.removeprefix(prefix)) for rule in self.rules
            ),
            omissible=tuple(name.removeprefix(prefix) for name in self.omissible),
        )
