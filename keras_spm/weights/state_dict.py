"""Loads all of a source or nothing: every variable once, every tensor accounted for."""

import dataclasses
import re

import numpy as np

from keras_spm.weights.errors import MismatchError
from keras_spm.weights.messages import listed

# Tensors that PyTorch code keeps beside the weights but derives from the architecture.
DERIVED = re.compile(r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask)")

# Rows of a table that is resized: a grid of 1,024 x 1,024.
_MOST_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        source: what was read.
        layout: the layout that it was read in.
        loaded: {variable path: names of the tensors that made it}.
        missing_keys: paths of variables that kept their initial values (a classifier's head, or
            a dense task's last layer, that the source lacks or has for other classes).
        unexpected_keys: tensors that the model has no use for (a classifier's head; the class
            token and final norm of a PVT, where the model has none).
        resized: {tensor name: (its shape, the shape it was resized to)}, of position
            embeddings and relative-position tables.
        upcast: tensors that came in half precision and were widened exactly.
    """

    source: str
    layout: str
    loaded: dict
    missing_keys: tuple
    unexpected_keys: tuple
    resized: dict
    upcast: tuple

    def without(self, paths):
        """This report for a model in which these variables stayed fresh after all."""
        loaded = {path: names for path, names in self.loaded.items() if path not in paths}
        return dataclasses.replace(self, loaded=loaded, missing_keys=(*self.missing_keys, *paths))

    def __str__(self):
        lines = [f"{len(self.loaded)} variables loaded from {self.source} ({self.layout} layout)"]
        resized = [f"{name} {old} → {new}" for name, (old, new) in self.resized.items()]
        for label, names in (
            ("missing keys", self.missing_keys),
            ("unexpected keys", self.unexpected_keys),
            ("resized", resized),
            ("upcast from half precision", self.upcast),
        ):
            if names:
                lines.append(f"{label}: {listed(names)}")
        return "\n".join(lines)


def load(variables, arrays, layout, source):
    """Checks everything, then assigns everything.

    Args:
        variables: {path: Keras variable} of the model or layer.
        arrays: {name: numpy array}.
        layout: a `keras_spm.weights.key_mapping.Layout`.
        source: str, what to call the arrays in messages.

    Returns:
        A `LoadReport`.

    Raises:
        MismatchError: names every missing, unexpected, misshapen or non-finite tensor;
            nothing is assigned then.
    """
    arrays = {name: array for name, array in arrays.items() if not DERIVED.fullmatch(name)}
    body, head = bindings(variables, layout)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    fresh_head = _head_is_fresh(head, shapes, arrays)
    wanted = body if fresh_head else body + head
    used = {name for binding in wanted for name in binding.names}
    head_names = {name for rule in layout.head for name in rule.names}
    may_be_left = {*layout.omissible, *head_names} - used
    unexpected_keys = [name for name in arrays if name in may_be_left]

    invalid_annotations = _missing_and_unexpected(used, arrays, unexpected_keys)
    values, resized = {}, {}
    for binding in wanted:
        if all(name in arrays for name in binding.names):
            invalid_annotations += _convert(binding, shapes, arrays, values, resized)
    if invalid_annotations:
        raise MismatchError(
            f"{source} does not fit the model ({layout.name} layout); nothing was loaded.\n"
            + "\n".join(invalid_annotations)
        )
    for path, value in values.items():
        variables[path].assign(value)
    return LoadReport(
        source=source,
        layout=layout.name,
        loaded={path: binding.names for binding in wanted for path in binding.paths},
        missing_keys=tuple(path for binding in head for path in binding.paths)
        if fresh_head
        else (),
        unexpected_keys=tuple(unexpected_keys),
        resized=resized,
        upcast=tuple(name for name in sorted(used) if arrays[name].dtype.itemsize < 4),
    )


def write(values, layout):
    """Returns {name: numpy array} as a layout has them.

    Args:
        values: {path: numpy array} of the model or layer.
        layout: a `keras_spm.weights.key_mapping.Layout`.

    Raises:
        MismatchError: names what the layout has no place for.
    """
    body, head = bindings(values, layout)
    arrays = {}
    for binding in body + head:
        if binding.transform.to_torch is None:
            raise MismatchError(
                f"The {layout.name} layout has no form for a model whose "
                f"{', '.join(binding.names)} would have to come from "
                f"{', '.join(binding.paths)} alone."
            )
        tensors = binding.transform.to_torch([values[path] for path in binding.paths])
        for name, tensor in zip(binding.names, tensors, strict=True):
            # A copy: the model's own memory must not be seen through it.
            arrays[name] = np.array(tensor, order="C")
            if name.endswith("running_mean"):
                counter = name.replace("running_mean", "num_batches_tracked")
                arrays[counter] = np.array(0, "int64")
    return arrays


def bindings(variables, layout):
    """Returns (bindings of the body, bindings of the head) for a model's variables.

    Raises:
        MismatchError: names the variables that the layout has no place for.
    """
    body, unknown = _bind(variables, layout.rules)
    head, unknown = _bind(unknown, layout.head)
    if unknown:
        raise MismatchError(
            f"The {layout.name} layout has no place for the model's {listed(unknown)}."
        )
    return body, head


def overlap(variables, arrays, layout):
    """How many of the tensors that a layout asks for are there, for recognizing it."""
    body, _ = _bind(variables, layout.rules)
    head, _ = _bind(variables, layout.head)
    return sum(name in arrays for binding in body + head for name in binding.names)


def _bind(variables, rules):
    """Returns ([Binding], {path: variable} that no rule takes)."""
    bound = []
    for path in variables:
        candidates = (rule.bind(path, variables) for rule in rules)
        binding = next((each for each in candidates if each is not None), None)
        if binding is not None:
            bound.append(binding)
    taken = {path for binding in bound for path in binding.paths}
    return bound, {path: variables[path] for path in variables if path not in taken}


def _head_is_fresh(head, shapes, arrays):
    """Whether the source has no head at all, or a whole one for other classes."""
    names = [name for binding in head for name in binding.names]
    if not all(name in arrays for name in names):
        return not any(name in arrays for name in names)
    expected = [
        shape
        for binding in head
        for shape in binding.transform.source_shapes([shapes[path] for path in binding.paths])
    ]
    # The classes' axis differs, the same everywhere, and no other.
    differing = [
        [size for size, own in zip(arrays[name].shape, shape, strict=True) if size != own]
        if arrays[name].ndim == len(shape)
        else []
        for name, shape in zip(names, expected, strict=True)
    ]
    return bool(names) and all(len(sizes) == 1 and sizes == differing[0] for sizes in differing)


def _missing_and_unexpected(used, arrays, unexpected_keys):
    invalid_annotations = []
    if missing := [name for name in used if name not in arrays]:
        invalid_annotations.append(f"missing: {listed(sorted(missing))}")
    if unexpected := [name for name in arrays if name not in used and name not in unexpected_keys]:
        invalid_annotations.append(f"unexpected: {listed(unexpected)}")
    return invalid_annotations


def _convert(binding, shapes, arrays, values, resized):
    """Adds a binding's values, and what was resized for them; returns the invalid_annotations."""
    transform = binding.transform
    path_shapes = [shapes[path] for path in binding.paths]
    expected_shapes = transform.source_shapes(path_shapes)
    invalid_annotations = []
    for name, expected in zip(binding.names, expected_shapes, strict=True):
        array = arrays[name]
        if not _fits(array.shape, expected, transform.resized_axes):
            invalid_annotations.append(
                f"shape: {name} is {array.shape}, {' and '.join(binding.paths)} "
                f"needs {tuple(expected)}"
            )
        elif not _is_float(array.dtype):
            invalid_annotations.append(f"dtype: {name} is {array.dtype}, not a float")
        elif not np.isfinite(array.astype("float32")).all():
            invalid_annotations.append(f"values: {name} holds NaN or infinity")
        elif array.shape != tuple(expected):
            resized[name] = (array.shape, tuple(expected))
    if invalid_annotations:
        return invalid_annotations
    sources = [arrays[name].astype("float32") for name in binding.names]
    try:
        converted = transform.to_keras(sources, path_shapes)
    except ValueError as error:
        return [f"shape: {', '.join(binding.names)}: {error}"]
    values.update(zip(binding.paths, converted, strict=True))
    return []


def _fits(shape, expected, resized_axes):
    return len(shape) == len(expected) and all(
        size <= _MOST_ROWS if axis in resized_axes else size == wanted
        for axis, (size, wanted) in enumerate(zip(shape, expected, strict=True))
    )


def _is_float(dtype):
    return dtype.kind == "f" or dtype.name == "bfloat16"
