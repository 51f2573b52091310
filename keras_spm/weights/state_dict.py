"""Assigns named arrays to variables: all of them or none, every tensor accounted for."""

import dataclasses
import re
from collections.abc import Collection, Container, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from keras_spm.types import Tensor
from keras_spm.weights.errors import MismatchError, join_names
from keras_spm.weights.key_mapping import Binding, Layout
from keras_spm.weights.transforms import RGB

# Buffers that PyTorch code saves with the weights, but derives from the architecture.
_BUFFER = re.compile(r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask)")

# Dtype of quantized kernels, also of packed 4-bit ones. All other variables are floats.
_QUANTIZED = "int8"
# Limit for tables that are resized: the rows of a 1,024 x 1,024 grid.
_MAX_ROWS = 1 << 20

Variables: TypeAlias = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The result of loading weights.

    Attributes:
        source: name of the source, with the wrapper and the prefix of names that were removed,
            as in `weights.pth['model_ema'] without the prefix 'module.'`.
        layout: name of its layout.
        loaded: {variable path: names of the tensors that it was made from}.
        missing_keys: paths of variables that keep their initial values, such as a head for
            another number of classes.
        unexpected_keys: names of tensors that the model does not have, such as a head.
        resized: {tensor name: (its shape, the model's shape)} of position tables.
        adapted_channels: {tensor name: (its channels, the model's channels)} of the first
            convolution, if it was adapted from RGB images to images of other channels.
        upcast: names of tensors that were converted from half precision to float32.
    """

    source: str
    layout: str
    loaded: dict[str, tuple[str, ...]]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    adapted_channels: dict[str, tuple[int, int]]
    upcast: tuple[str, ...]

    def without(self, paths: Collection[str]) -> "LoadReport":
        """Returns the report with these variables moved to the missing keys."""
        loaded = {path: names for path, names in self.loaded.items() if path not in paths}
        return dataclasses.replace(self, loaded=loaded, missing_keys=(*self.missing_keys, *paths))

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} variables loaded from {self.source} ({self.layout} layout)"]
        resized, adapted = (
            [f"{name} {old} → {new}" for name, (old, new) in changed.items()]
            for changed in (self.resized, self.adapted_channels)
        )
        for label, names in (
            ("missing keys", self.missing_keys),
            ("unexpected keys", self.unexpected_keys),
            ("resized", resized),
            ("adapted to other channels", adapted),
            ("upcast from half precision", self.upcast),
        ):
            if names:
                lines.append(f"{label}: {join_names(names)}")
        return "\n".join(lines)


class Match(NamedTuple):
    """Bindings of the variables to load; the other fields as in `LoadReport`."""

    bindings: list[Binding]
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    adapted_channels: dict[str, tuple[int, int]]


def match(
    variables: Variables, arrays: dict[str, np.ndarray], layout: Layout, source: str
) -> Match:
    """Compares names, shapes and dtypes of tensors and variables; reads no values.

    `variables` is {path: Keras variable}, `arrays` is {name: array} in the layout's names, and
    `source` is their name for messages.

    Raises:
        MismatchError: lists all tensors that do not fit.
    """
    body, head, added = _bind_all(variables, layout)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    without_head = _lacks_head(head, shapes, arrays)
    without_added = _lacks_added(added, layout, arrays)
    loaded = [(body, False), (head, without_head), (added, without_added)]
    bindings = [each for group, is_missing in loaded if not is_missing for each in group]
    used = {name for binding in bindings for name in binding.names}
    head_names = {name for rule in (*layout.head, *head) for name in rule.names}
    replaced = layout.replaced if without_added else ()
    optional = {*layout.optional, *head_names, *replaced} - used
    others = [name for name in arrays if name not in used and not _BUFFER.fullmatch(name)]
    errors, resized, adapted = [], {}, {}
    if missing := sorted(used - arrays.keys()):
        errors.append(f"missing: {join_names(missing)}")
    if unexpected := [name for name in others if name not in optional]:
        errors.append(f"unexpected: {join_names(unexpected)}")
    for binding in bindings:
        if used.issuperset(binding.names) and arrays.keys() >= set(binding.names):
            errors += _compare(binding, variables, arrays, resized, adapted)
    _raise_if(errors, source, layout)
    missing = [each for group, is_missing in loaded if is_missing for each in group]
    missing_keys = [path for binding in missing for path in binding.paths]
    missing_keys += [path for path in variables if path in layout.unused]
    unexpected_keys = [name for name in others if name in optional]
    return Match(bindings, tuple(missing_keys), tuple(unexpected_keys), resized, adapted)


def load(
    variables: Variables, arrays: dict[str, np.ndarray], layout: Layout, source: str
) -> LoadReport:
    """Checks all tensors, then assigns all variables. The arguments are those of `match`.

    Raises:
        MismatchError: lists all tensors that do not fit or are not finite.
    """
    found = match(variables, arrays, layout, source)
    values, errors = {}, []
    for binding in found.bindings:
        errors += _convert(binding, variables, arrays, values)
    _raise_if(errors, source, layout)
    for path, value in values.items():
        variables[path].assign(value)
    used = sorted({name for binding in found.bindings for name in binding.names})
    return LoadReport(
        source=source,
        layout=layout.name,
        loaded={path: binding.names for binding in found.bindings for path in binding.paths},
        missing_keys=found.missing_keys,
        unexpected_keys=found.unexpected_keys,
        resized=found.resized,
        adapted_channels=found.adapted_channels,
        upcast=tuple(
            name
            for name in used
            if arrays[name].dtype.itemsize < 4 and arrays[name].dtype.name != _QUANTIZED
        ),
    )


def export(values: dict[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """Returns {name: array} in a layout for {path: array} of a model or layer."""
    body, head, added = _bind_all(values, layout)
    arrays = {}
    for binding in body + head + added:
        if binding.transform.to_torch is None:
            raise MismatchError(
                f"The {layout.name} layout cannot represent this model: "
                f"{', '.join(binding.names)} cannot be written from "
                f"{', '.join(binding.paths)} alone."
            )
        tensors = binding.transform.to_torch([values[path] for path in binding.paths])
        for name, tensor in zip(binding.names, tensors, strict=True):
            # A copy, which does not share memory with the model.
            arrays[name] = np.array(tensor, order="C")
            if name.endswith("running_mean"):
                counter = name.replace("running_mean", "num_batches_tracked")
                arrays[counter] = np.array(0, "int64")
    return arrays


def count_matches(variables: Variables, arrays: Container[str], layout: Layout) -> int:
    """Returns how many of a layout's tensors are present, to recognize the layout."""
    bindings = [
        binding
        for rules in (layout.rules, layout.head, layout.added)
        for binding in _bind(variables, rules)[0]
    ]
    return sum(name in arrays for binding in bindings for name in binding.names)


def _bind_all(variables, layout):
    """Returns the bindings of `rules`, `head` and `added`."""
    used = {path: each for path, each in variables.items() if path not in layout.unused}
    added, rest = _bind(used, layout.added)
    body, rest = _bind(rest, layout.rules)
    head, unknown = _bind(rest, layout.head)
    if unknown:
        raise MismatchError(f"The {layout.name} layout does not have {join_names(unknown)}.")
    return body, head, added


def _lacks_added(added, layout, arrays):
    """Whether the source has the tensors that the added layers replace, and none of theirs."""
    names = [name for binding in added for name in binding.names]
    has_replaced = bool(layout.replaced) and all(name in arrays for name in layout.replaced)
    return bool(names) and has_replaced and not any(name in arrays for name in names)


def _bind(variables, rules):
    """Returns the bindings, and {path: variable} without a rule."""
    bound = []
    for path in variables:
        candidates = (rule.bind(path, variables) for rule in rules)
        binding = next((candidate for candidate in candidates if candidate is not None), None)
        if binding is not None:
            bound.append(binding)
    taken = {path for binding in bound for path in binding.paths}
    return bound, {path: variables[path] for path in variables if path not in taken}


def _lacks_head(head, shapes, arrays):
    """Whether the source has no head at all, or a complete one for other classes."""
    names = [name for binding in head for name in binding.names]
    if not all(name in arrays for name in names):
        return not any(name in arrays for name in names)
    expected = [
        shape
        for binding in head
        for shape in binding.transform.source_shapes([shapes[path] for path in binding.paths])
    ]
    if any(arrays[name].ndim != len(shape) for name, shape in zip(names, expected, strict=True)):
        return False
    # Only axes of classes differ. Sizes may be multiples of the number of classes, so each size
    # of the model has one size in the source.
    sizes = {}
    for name, shape in zip(names, expected, strict=True):
        differing = [
            pair for pair in zip(shape, arrays[name].shape, strict=True) if len({*pair}) > 1
        ]
        if len(differing) != 1:
            return False
        own, size = differing[0]
        if sizes.setdefault(own, size) != size:
            return False
    return bool(names)


def _raise_if(errors, source, layout):
    if errors:
        raise MismatchError(
            f"{source} does not fit the model ({layout.name} layout); nothing was loaded.\n"
            + "\n".join(errors)
        )


def _compare(binding, variables, arrays, resized, adapted):
    """Returns the errors of a binding's shapes and dtypes; adds to `resized` and `adapted`."""
    transform = binding.transform
    own = [variables[path] for path in binding.paths]
    expected_shapes = transform.source_shapes([tuple(variable.shape) for variable in own])
    is_quantized = own[0].dtype == _QUANTIZED
    errors = []
    for name, expected in zip(binding.names, expected_shapes, strict=True):
        array = arrays[name]
        if not _fits(array.shape, expected, transform):
            errors.append(
                f"shape: {name} is {array.shape}, {' and '.join(binding.paths)} "
                f"needs {tuple(expected)}"
            )
        elif is_quantized and array.dtype.name != _QUANTIZED:
            errors.append(f"dtype: {name} is {array.dtype}, not {_QUANTIZED}")
        elif not is_quantized and array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            errors.append(f"dtype: {name} is {array.dtype}, not a float")
        elif array.shape == tuple(expected):
            continue
        elif is_quantized:
            errors.append(f"shape: {name} is {array.shape} and quantized, so it is not adapted")
        elif (axis := transform.channel_axis) is not None:
            adapted[name] = (array.shape[axis], expected[axis])
        else:
            resized[name] = (array.shape, tuple(expected))
    return errors


def _fits(shape, expected, transform):
    return len(shape) == len(expected) and all(
        0 < size <= _MAX_ROWS
        if axis in transform.resized_axes
        else size == wanted or (axis == transform.channel_axis and size == RGB)
        for axis, (size, wanted) in enumerate(zip(shape, expected, strict=True))
    )


def _convert(binding, variables, arrays, values):
    """Adds a binding's values; returns the errors."""
    sources = {name: arrays[name].astype("float32") for name in binding.names}
    not_finite = [name for name, array in sources.items() if not np.isfinite(array).all()]
    if not_finite:
        return [f"values: {name} has NaN or infinity" for name in not_finite]
    shapes = [tuple(variables[path].shape) for path in binding.paths]
    try:
        converted = binding.transform.to_keras(list(sources.values()), shapes)
    except ValueError as error:
        return [f"shape: {', '.join(binding.names)}: {error}"]
    values.update(zip(binding.paths, converted, strict=True))
    return []
