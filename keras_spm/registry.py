"""Registries: families, tasks, heads, readers, layouts and recipes register themselves here.

Imports nothing of this package, so that every module can register and look up.
"""

import collections.abc
import difflib
import typing

_Value = typing.TypeVar("_Value")


def lookup(kind: str, name: str, known: collections.abc.Mapping[str, _Value]) -> _Value:
    """Returns `known[name]`.

    Raises:
        ValueError: for an unknown name; suggests the nearest one and lists all.
    """
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(known)}.")


class Registry(collections.abc.Mapping):
    """A mapping from names to the objects that registered under them.

    Args:
        kind: what the objects are, for messages.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._objects = {}

    def register(self, name: str, value: _Value) -> _Value:
        """Registers an object and returns it.

        The same class or function defined again, as in a notebook cell that runs twice,
        replaces the earlier one. An equal object may be registered again.

        Raises:
            ValueError: if another object has the name.
        """
        known = self._objects.get(name, value)
        if known != value and _origin(known) != _origin(value):
            raise ValueError(f"{self._kind} {name!r} is already registered, as {known!r}.")
        self._objects[name] = value
        return value

    def __getitem__(self, name: str) -> typing.Any:
        return lookup(self._kind, name, self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self) -> collections.abc.Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


def _origin(value):
    """Module and name of a class or function; the identity of any other object."""
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
