"""Registries: families, tasks, heads, readers, layouts and recipes register themselves here.

Imports nothing of this package but types, so that every module can register and look up.
"""

import difflib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

from keras_spm.types import PathLike

_Value = TypeVar("_Value")


def lookup(kind: str, name: str, known: Mapping[str, _Value]) -> _Value:
    """Returns `known[name]`; the `ValueError` for an unknown name suggests the nearest one."""
    if isinstance(name, Hashable) and name in known:
        return known[name]
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(known)}.")


class Registry(Mapping):
    """A mapping from names to objects; `kind` says what they are, in messages."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._objects = {}

    def register(self, name: str, value: _Value) -> _Value:
        """Registers an object and returns it.

        A class or function that is defined again, as in a notebook, replaces the earlier one.

        Raises:
            ValueError: if another object has the name.
        """
        known = self._objects.get(name, value)
        if known != value and _origin(known) != _origin(value):
            raise ValueError(f"{self._kind} {name!r} is already registered, as {known!r}.")
        self._objects[name] = value
        return value

    def __getitem__(self, name: str) -> Any:
        return lookup(self._kind, name, self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


def _origin(value):
    return getattr(value, "__module__", None), getattr(value, "__qualname__", id(value))


BACKBONES = Registry("backbone class")
TASKS = Registry("task")
HEADS = Registry("head")
LAYOUTS = Registry("weight layout")
CONFIGS = Registry("model configuration")
READERS = Registry("data format")
RECIPES = Registry("kind of recipe")

# Functions that `presets` registers, because backbones and tasks cannot import it.
PRESET_FUNCTIONS = Registry("preset function")


class PresetMixin:
    """`from_preset` and `save_to_preset` of backbones and tasks."""

    @classmethod
    def from_preset(
        cls,
        name: PathLike,
        load_weights: bool = True,
        weights: PathLike | None = None,
        transplant: Any = None,
        **arguments: Any,
    ) -> Any:
        """Builds a model and loads its weights; its `load_report` lists what was loaded.

        Called on a base class (`PyramidBackbone`, `ImageTask`), it builds the class that the
        preset was saved as.

        Args:
            name: a preset of the class (backbones only) or a long name, see
                `keras_spm.list_presets()`; a folder written by `save_to_preset`, transformers
                or timm; or its address on the hub, `"hf://owner/name"`, optionally with
                `"@revision"`.
            load_weights: bool; `False` for random weights.
            weights: optional path of a file of PyTorch weights that is loaded instead of the
                preset's, see `keras_spm.load_torch_weights`. Trained dense models whose
                weights are not on the hub need it: without it they are built with random
                weights, and a warning says where to download the file.
            transplant: optional unlabeled images, see `keras_spm.transplant`. From them, mergings
                without published weights learn to replace those of the published network.
            **arguments: constructor arguments that replace those of the preset. A task with
                another `num_classes` has new class predictors. Tasks also take `merging` and
                `image_shape` of their backbone. The latter may have another number of channels than
                3: the first convolution is adapted as timm does, and so are the `mean` and `std` of
                the preset.

        Raises:
            ValueError: for an unknown name (suggests the nearest), a preset without
                published weights, or a folder with another model.
            keras_spm.weights.WeightsError: if files cannot be downloaded or do not fit.
        """
        load = PRESET_FUNCTIONS["load"]
        return load(cls, name, load_weights, weights, arguments, transplant)

    def save_to_preset(self, folder: PathLike) -> None:
        """Writes configuration and weights to a new folder, for `from_preset`.

        Raises:
            FileExistsError: if the folder is not empty. No partial folder is left behind.
        """
        PRESET_FUNCTIONS["save"](self, folder)
