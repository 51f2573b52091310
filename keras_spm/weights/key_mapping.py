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

from keras_spm.weights.transforms import BIAS_TABLE
from keras_spm.weights.transforms import GRID
from keras_spm.weights.transforms import IDENTITY
from keras_spm.weights.transforms import LINEAR
from keras_spm.weights.transforms import Transform
from keras_spm.weights.transforms import stacked


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


class SamePath:
    """A rule for every variable but those below some paths: the tensor's name is its path."""

    def __init__(self, without):
        self._without = without

    def bind(self, path, variables):
        """Returns the `Binding` of a variable, or None where it is left to others."""
        return None if path.startswith(self._without) else Binding((path,), (path,), IDENTITY)


def affine(path, name, transform):
    """Rules for a kernel and a bias."""
    return (
        Rule(f"{path}/kernel", f"{name}.weight", transform),
        Rule(f"{path}/bias", f"{name}.bias"),
    )


def stacked_dense(path, names):
    """Rules for a linear map that PyTorch's side has in parts, its outputs side by side."""
    count = len(names)
    return (
        Rule(f"{path}/kernel", tuple(f"{name}.weight" for name in names), stacked(LINEAR, count)),
        Rule(f"{path}/bias", tuple(f"{name}.bias" for name in names), stacked(IDENTITY, count)),
    )


def normalization(path, name):
    """Rules for the scale and shift of a normalization."""
    return Rule(f"{path}/gamma", f"{name}.weight"), Rule(f"{path}/beta", f"{name}.bias")


def batch_normalization(path, name):
    """Rules for a normalization with running statistics."""
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


def _same(path, transform=IDENTITY):
    return Rule(path, path, transform)


# What our own files hold: variables under their own paths, in Keras's axis order.
_OWN_GRIDS = (
    _same("stage{stage}/position_embedding/embedding", GRID),
    _same("stage{stage}/block{block}/attention/relative_position_bias_table", BIAS_TABLE),
)
OWN_LAYOUT = Layout(
    "keras_spm",
    (*_OWN_GRIDS, SamePath(without="head/")),
    head=(_same("head/kernel"), _same("head/bias")),
    omissible=("stage4/class_token", "stage4/class_position", "norm/gamma", "norm/beta"),
)
# Of a dense task's head the last layer alone knows how many classes there are.
_CLASS_PREDICTORS = ("head/classifier/", "head/class_predictor/")
OWN_DENSE_LAYOUT = Layout(
    "keras_spm",
    (*_OWN_GRIDS, SamePath(without=_CLASS_PREDICTORS)),
    head=tuple(_same(f"{path}{part}") for path in _CLASS_PREDICTORS for part in ("kernel", "bias")),
)
