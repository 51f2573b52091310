"""The language of the rule tables in `keras_spm.converters`.

A table is a sequence of rules, each from the path of a Keras variable to the name of a
PyTorch tensor. Placeholders stand for numbers: `{stage}` in a path is one, and the
tensor's name may use `{stage}` as it is or `{stage_index}`, one less.
"""

import dataclasses
import functools
import re
import typing


class Transform(typing.NamedTuple):
    """How a tensor turns into a variable.

    `source_shape(shape)` is the shape that the tensor must have for a variable of
    `shape`; `apply(array, shape)` makes the variable's value.
    """

    source_shape: typing.Callable
    apply: typing.Callable


IDENTITY = Transform(lambda shape: shape, lambda array, shape: array)

# Linear: (out, in) → (in, out).
LINEAR = Transform(lambda shape: shape[::-1], lambda array, shape: array.T)

# Convolution: (out, in, height, width) → (height, width, in, out).
CONVOLUTION = Transform(
    lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    lambda array, shape: array.transpose(2, 3, 1, 0),
)

# Depthwise convolution: (channels, 1, height, width) → (height, width, channels, 1).
DEPTHWISE = Transform(
    lambda shape: (shape[2], shape[3], shape[0], shape[1]),
    lambda array, shape: array.transpose(2, 3, 0, 1),
)

# 1x1 convolution to a linear map: (out, in, 1, 1) → (in, out).
POINTWISE = Transform(
    lambda shape: (shape[1], shape[0], 1, 1), lambda array, shape: array[:, :, 0, 0].T
)

# Grouped 1x1 convolution: (groups * outputs, inputs, 1, 1) → (inputs, groups, outputs).
GROUPED = Transform(
    lambda shape: (shape[1] * shape[2], shape[0], 1, 1),
    lambda array, shape: array.reshape(shape[1], shape[2], shape[0]).transpose(2, 0, 1),
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a table: where a variable's value comes from."""

    path: str
    name: str
    transform: Transform = IDENTITY

    def source(self, path):
        """Returns the tensor's name for a variable's path, or None where it is another's."""
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        numbers = {key: int(value) for key, value in match.groupdict().items()}
        indices = {f"{key}_index": value - 1 for key, value in numbers.items()}
        return self.name.format(**numbers, **indices)

    @functools.cached_property
    def _pattern(self):
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[0-9]+)", re.escape(self.path)))

    def under(self, path, name):
        """Returns this rule for a layer at `path`, whose tensors stand under `name`."""
        return Rule(f"{path}/{self.path}", f"{name}.{self.name}", self.transform)


def affine(path, name, transform):
    """Rules for a kernel and a bias."""
    return (
        Rule(f"{path}/kernel", f"{name}.weight", transform),
        Rule(f"{path}/bias", f"{name}.bias"),
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

    `head` holds the rules of the classifier, which may stay out; `ignored` is a regular
    expression for tensors that carry nothing (derived buffers).
    """

    name: str
    rules: tuple
    head: tuple = ()
    ignored: str = r"(?!)"
