"""The API reference: a page for each public module, with all of its public names."""

import importlib
import inspect
import types
from collections.abc import Iterator

import keras_spm

# Methods that are the same in every layer and model: those of Keras, and `keras_spm.layers.macs`.
_KNOWN = {
    *("build", "call", "compute_output_shape", "from_config", "get_config", "macs", "quantize"),
    *("make_train_function", "predict_step"),
}


def pages() -> dict[str, str]:
    """Returns {path: Markdown} of the reference."""
    documented: set[str] = set()  # Names that two modules export are documented once.
    found = {f"api/{_short(module)}.md": _page(module, documented) for module in public_modules()}
    return {"api/index.md": _index(), **found}


def public_modules() -> list[types.ModuleType]:
    """Returns the public modules of the package, except for the package itself."""
    modules = [getattr(keras_spm, name) for name in keras_spm.__all__]
    modules = [module for module in modules if inspect.ismodule(module)]
    return [*modules, importlib.import_module("keras_spm.transplantation")]


def public_names(module: types.ModuleType) -> list[str]:
    """Returns `__all__`, or else the names that a module defines and that have no underscore."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def undocumented() -> list[str]:
    """Returns the public names, and public methods of public classes, without a docstring."""
    found = []
    for module in (keras_spm, *public_modules()):
        for name in public_names(module):
            value = getattr(module, name)
            if inspect.ismodule(value) or not (inspect.isclass(value) or callable(value)):
                continue
            where = f"{module.__name__}.{name}"
            if not inspect.getdoc(value):
                found.append(where)
            if inspect.isclass(value):
                found += [f"{where}.{method}" for method in _undocumented_methods(value)]
    return found


def _undocumented_methods(cls) -> Iterator[str]:
    for name, value in vars(cls).items():
        if name.startswith("_") or name in _KNOWN:
            continue
        is_member = inspect.isfunction(value) or isinstance(value, property)
        # A method that overrides a documented one has its documentation.
        bases = (vars(base) for base in cls.__mro__)
        if is_member and not any(each[name].__doc__ for each in bases if name in each):
            yield name


def _short(module):
    return module.__name__.rpartition(".")[2]


def _page(module, documented):
    lines = [f"# keras_spm.{_short(module)}", inspect.getdoc(module) or ""]
    for name in public_names(module):
        value = getattr(module, name)
        where = place_of(value, f"{module.__name__}.{name}")
        short = f"## `{name}`\n\nSee [`{where}`][{where}]."
        lines.append(short if where in documented else f"::: {where}")
        documented.add(where)
    return "\n\n".join(lines) + "\n"


def place_of(value: object, default: str) -> str:
    """Returns the name of a class or function in the module that defines it."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return default


def _index():
    """The names of the package itself: documented here, or with a link to their module."""
    places = {
        id(getattr(module, name)): _short(module)
        for module in public_modules()
        for name in public_names(module)
    }
    lines = [
        "# keras_spm",
        inspect.getdoc(keras_spm),
        "| name | what it is |\n| --- | --- |\n" + "\n".join(_rows(places)),
    ]
    for name in keras_spm.__all__:
        value = getattr(keras_spm, name)
        if inspect.ismodule(value) or id(value) in places:
            continue
        module = inspect.getmodule(value)
        lines.append(f"::: {place_of(value, f'keras_spm.{name}')}")
        # With the types of its results.
        lines += [
            f"::: {module.__name__}.{other}"
            for other in public_names(module)
            if other not in keras_spm.__all__ and inspect.isclass(getattr(module, other))
        ]
    return "\n\n".join(lines) + "\n"


def _rows(places):
    for name in keras_spm.__all__:
        value = getattr(keras_spm, name)
        summary = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
        if inspect.ismodule(value):
            link = f"[`{name}`]({name}.md)"
        else:
            link = f"[`{name}`][{place_of(value, f'keras_spm.{name}')}]"
        yield f"| {link} | {summary.replace('|', chr(92) + '|')} |"
