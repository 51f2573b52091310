"""Loads all of a source or nothing: every variable once, every tensor accounted for."""

import dataclasses
import re

import numpy as np

from keras_spm.weights.errors import MismatchError

_SHOWN = 8  # Names listed in a message before the rest is only counted.


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        source: what was read.
        layout: the layout that it was read in.
        loaded: {variable path: tensor name}.
        fresh: paths of variables that kept their initial values (a classifier's head
            that the source lacks or has for other classes).
        left_over: tensors of the source's head that the model has no use for.
        widened: tensors that came in half precision and were widened exactly.
    """

    source: str
    layout: str
    loaded: dict
    fresh: tuple
    left_over: tuple
    widened: tuple

    def __str__(self):
        lines = [f"{len(self.loaded)} variables loaded from {self.source} ({self.layout} layout)"]
        for label, names in (
            ("fresh", self.fresh),
            ("left over", self.left_over),
            ("widened from half precision", self.widened),
        ):
            if names:
                lines.append(f"{label}: {_listed(names)}")
        return "\n".join(lines)


def load(variables, arrays, layout, source):
    """Checks everything, then assigns everything.

    Args:
        variables: {path: Keras variable} of the model or layer.
        arrays: {name: numpy array}.
        layout: a `keras_spm.weights.rules.Layout`.
        source: str, what to call the arrays in messages.

    Returns:
        A `LoadReport`.

    Raises:
        MismatchError: names every missing, unexpected, misshapen or non-finite tensor;
            nothing is assigned then.
    """
    arrays = {name: array for name, array in arrays.items() if not re.search(layout.ignored, name)}
    body, unknown = _match(variables, layout.rules)
    head, unknown = _match(unknown, layout.head)
    if unknown:
        raise MismatchError(
            f"The {layout.name} layout has no place for the model's {_listed(unknown)}."
        )
    fresh = _fresh_head(head, variables, arrays)
    wanted = body | {path: entry for path, entry in head.items() if path not in fresh}
    head_names = {rule.name for rule in layout.head}
    used = {name for name, _ in wanted.values()}
    left_over = [name for name in arrays if name in head_names - used]

    problems = _problems(wanted, variables, arrays, used | set(left_over))
    if problems:
        raise MismatchError(
            f"{source} does not fit the model ({layout.name} layout); nothing was loaded.\n"
            + "\n".join(problems)
        )
    values = {
        path: transform.apply(arrays[name].astype("float32"), tuple(variables[path].shape))
        for path, (name, transform) in wanted.items()
    }
    for path, value in values.items():
        variables[path].assign(value)
    return LoadReport(
        source=source,
        layout=layout.name,
        loaded={path: name for path, (name, _) in wanted.items()},
        fresh=tuple(fresh),
        left_over=tuple(left_over),
        widened=tuple(name for name in sorted(used) if arrays[name].dtype.itemsize < 4),
    )


def overlap(variables, arrays, layout):
    """How many of the tensors that a layout asks for are there, for recognising it."""
    return sum(name in arrays for name, _ in _match(variables, layout.rules)[0].values())


def _match(variables, rules):
    """Returns ({path: (tensor name, transform)}, {path: variable} that no rule takes)."""
    matched, unknown = {}, {}
    for path, variable in variables.items():
        for rule in rules:
            if (name := rule.source(path)) is not None:
                matched[path] = (name, rule.transform)
                break
        else:
            unknown[path] = variable
    return matched, unknown


def _fresh_head(head, variables, arrays):
    """The head's paths if the source has none, or one for other classes; else nothing."""
    for path, (name, transform) in head.items():
        expected = transform.source_shape(tuple(variables[path].shape))
        if name not in arrays:
            return list(head)
        same_features = arrays[name].shape[1:] == expected[1:]
        if same_features and arrays[name].shape[:1] != expected[:1]:
            return list(head)
    return []


def _problems(wanted, variables, arrays, accounted):
    problems = []
    missing = [name for name, _ in wanted.values() if name not in arrays]
    if missing:
        problems.append(f"missing: {_listed(missing)}")
    unexpected = [name for name in arrays if name not in accounted]
    if unexpected:
        problems.append(f"unexpected: {_listed(unexpected)}")
    for path, (name, transform) in wanted.items():
        if name not in arrays:
            continue
        array, expected = arrays[name], transform.source_shape(tuple(variables[path].shape))
        if array.shape != expected:
            problems.append(f"shape: {name} is {array.shape}, {path} needs {expected}")
        elif not _is_float(array.dtype):
            problems.append(f"dtype: {name} is {array.dtype}, not a float")
        elif not np.isfinite(array.astype("float32")).all():
            problems.append(f"values: {name} holds NaN or infinity")
    return problems


def _is_float(dtype):
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _listed(names):
    names = list(names)
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
