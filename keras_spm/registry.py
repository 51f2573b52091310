"""Looks names up, and lets a class load and save presets that it does not import.

Imports nothing of this package: `presets` registers its functions here, and
`PyramidBackbone.from_preset` asks for them.
"""

import difflib

_functions = {}


def register_loader(function):
    """Makes `function(cls, name, load_weights, overrides)` what `from_preset` calls."""
    _functions["load"] = function
    return function


def register_saver(function):
    """Makes `function(model, folder)` what `save_to_preset` calls."""
    _functions["save"] = function
    return function


def load_preset(cls, name, load_weights, overrides):
    """Builds a `cls` from a preset name through the registered loader."""
    return _functions["load"](cls, name, load_weights, overrides)


def save_preset(model, folder):
    """Saves a model as a preset folder through the registered saver."""
    _functions["save"](model, folder)


def lookup(kind, name, known):
    """Returns `known[name]`.

    Raises:
        ValueError: for an unknown name; says the nearest one and all there are.
    """
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"Unknown {kind} {name!r}.{hint} There are: {', '.join(known)}.")
