"""Rules that map paths of Keras variables to names of PyTorch tensors.

A layout is a sequence of rules, usually of one path and one name. Placeholders stand for
numbers: `{stage}` in a path matches a number; the tensor's name may use `{stage}` itself,
`{stage_index}` (one less) or `{stage_before}` (two less).
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

import numpy as np

from keras_spm.weights.transforms import IDENTITY, LINEAR, Transform, stacked

# Name of the layout of this package's own files: the paths of the variables.
OWN_FORMAT = "keras_spm"


class Binding(NamedTuple):
    """A rule applied to a model: these variables correspond to these tensors."""

    paths: tuple[str, ...]
    names: tuple[str, ...]
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a layout: path(s) of variables, name(s) of tensors, and their transform."""

    path: str | tuple[str, ...]
    name: str | tuple[str, ...]
    transform: Transform = IDENTITY

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if isinstance(self.name, str) else self.name

    def bind(self, path: str, variables: Container[str]) -> Binding | None:
        """Returns the binding whose first variable is `path`, or `None`."""
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        numbers = {}
        for key, value in match.groupdict().items():
            number = int(value)
            numbers |= {key: number, f"{key}_index": number - 1, f"{key}_before": number - 2}
        paths = tuple(pattern.format(**numbers) for pattern in self.paths)
        if any(path not in variables for path in paths):
            return None
        names = tuple(pattern.format(**numbers) for pattern in self.names)
        return Binding(paths, names, self.transform)

    @functools.cached_property
    def _pattern(self):
        first = re.escape(self.paths[0])
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[0-9]+)", first))

    def nested(self, path: str, name: str) -> "Rule":
        """Returns this rule for a layer at `path`, whose tensors are below `name`."""
        return self.below(path).renamed(lambda inner: f"{name}.{inner}")

    def below(self, path: str) -> "Rule":
        """Returns this rule for a layer at `path`, with the same names of tensors."""
        return Rule(tuple(f"{path}/{inner}" for inner in self.paths), self.names, self.transform)

    def renamed(self, rename: Callable[[str], str]) -> "Rule":
        """Returns this rule with `rename(name)` for the name of each tensor."""
        return Rule(self.path, tuple(rename(name) for name in self.names), self.transform)


class SamePath:
    """A rule for all variables except some: the name of the tensor is the variable's path."""

    def __init__(self, without: Container[str]) -> None:
        self._without = without

    def bind(self, path: str, variables: Container[str]) -> Binding | None:
        return None if path in self._without else Binding((path,), (path,), IDENTITY)


def nested(rules: Iterable[Rule], path: str, name: str) -> tuple[Rule, ...]:
    """Returns the rules for a layer at `path`, whose tensors are below `name`."""
    return tuple(rule.nested(path, name) for rule in rules)


def affine(path: str, name: str, transform: Transform) -> tuple[Rule, ...]:
    """Returns the rules of a kernel and a bias."""
    return (
        Rule(f"{path}/kernel", f"{name}.weight", transform),
        Rule(f"{path}/bias", f"{name}.bias"),
    )


def stacked_dense(path: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    """Returns the rules of a dense layer that is several layers in PyTorch, outputs stacked."""
    count = len(names)
    return (
        Rule(f"{path}/kernel", tuple(f"{name}.weight" for name in names), stacked(LINEAR, count)),
        Rule(f"{path}/bias", tuple(f"{name}.bias" for name in names), stacked(IDENTITY, count)),
    )


def normalization(path: str, name: str) -> tuple[Rule, ...]:
    """Returns the rules of a normalization's scale and offset."""
    return Rule(f"{path}/gamma", f"{name}.weight"), Rule(f"{path}/beta", f"{name}.bias")


def batch_normalization(path: str, name: str) -> tuple[Rule, ...]:
    """Returns the rules of a normalization with running statistics."""
    return (
        *normalization(path, name),
        Rule(f"{path}/moving_mean", f"{name}.running_mean"),
        Rule(f"{path}/moving_variance", f"{name}.running_var"),
    )


def same_name(path: str, transform: Transform = IDENTITY) -> Rule:
    """Returns the rule of a tensor whose name is the variable's path."""
    return Rule(path, path, transform)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and shapes of a family's tensors in one code base.

    Attributes:
        name: shown to users.
        rules: of the backbone's tensors.
        head: rules of the classifier, which a source may lack.
        optional: names of tensors that the model may lack.
        attributes: {name: value} of the model that are constants in the code base.
        buffers: function from the backbone to {name: array} of derived tensors that the code
            base saves with the weights.
        headless: whether this is the layout of the code base's model without a classifier.
        added: rules of layers that the code base's classifier lacks, such as norms of pyramid
            levels. A source may have the tensors `replaced` instead.
        replaced: names of tensors.
        unused: paths of variables that the task does not use: neither loaded nor exported.
        backbone: of the layout of a head: name of the backbone's layout in the same files, and
            the prefix of the names of its tensors.
    """

    name: str
    rules: tuple[Rule | SamePath, ...] = ()
    head: tuple[Rule, ...] = ()
    optional: tuple[str, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    buffers: Callable[[Any], dict[str, np.ndarray]] = lambda backbone: {}
    headless: bool = False
    added: tuple[Rule, ...] = ()
    replaced: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()
    backbone: tuple[str, str] | None = None

    def without_prefix(self, prefix: str) -> "Layout":
        """Returns the layout of the model without a classifier, whose names lack `prefix`."""

        def rename(name):
            return name.removeprefix(prefix)

        return dataclasses.replace(self._renamed(rename), head=self.head, headless=True)

    def with_head(self, head: "Layout", path: str, unused: frozenset[str]) -> "Layout":
        """Returns the layout of a task: of this backbone, and of a head at `path`."""
        _, prefix = head.backbone
        renamed = self._renamed(lambda name: f"{prefix}{name}")
        return dataclasses.replace(
            renamed,
            name=head.name,
            headless=False,
            rules=(*renamed.rules, *(rule.below(path) for rule in head.rules)),
            head=tuple(rule.below(path) for rule in head.head),
            optional=(*renamed.optional, *head.optional),
            unused=unused,
        )

    def _renamed(self, rename):
        def rename_all(rules):
            return tuple(rule.renamed(rename) for rule in rules)

        def buffers(backbone):
            return {rename(name): array for name, array in self.buffers(backbone).items()}

        return dataclasses.replace(
            self,
            rules=rename_all(self.rules),
            head=rename_all(self.head),
            optional=tuple(map(rename, self.optional)),
            buffers=buffers,
            added=rename_all(self.added),
            replaced=tuple(map(rename, self.replaced)),
        )
