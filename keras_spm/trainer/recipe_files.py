"""Reads recipes from their files, and from the run folders of earlier trainings."""

import contextlib
import dataclasses
import inspect
import json
import pathlib
import reprlib
import runpy
import types
from collections.abc import Iterable

from keras_spm.data.folders import tree
from keras_spm.data.splits import AUTO, find_reader
from keras_spm.files import read_json_object
from keras_spm.registry import BACKBONES, RECIPES, lookup
from keras_spm.trainer.recipe import Recipe
from keras_spm.types import PathLike

_PACKAGE = pathlib.Path(__file__).parents[1]


def recipes_folder() -> pathlib.Path:
    """Returns the folder of the recipes that come with the package."""
    installed = _PACKAGE / "recipes"
    # In a clone, also if it is installed as editable, they are outside of the package.
    return installed if installed.is_dir() else _PACKAGE.parent / "training" / "recipes"


def load_recipe(
    name: PathLike,
    overrides: Iterable[str] = (),
    folder: PathLike | None = None,
    data_folder: str | None = None,
) -> Recipe:
    """Reads a recipe file and applies overrides.

    A file may define a table `variants`, `{preset: {key: value}}`, with the values that depend
    on the preset, or on another of the `variant_keys` of its class. They replace the file's other
    values; overrides replace both.

    Args:
        name: file name without `.py`, or path of a file that ends in `.py`; or the kind of
            recipe alone, such as `"detection"` for `"detection_folder"`.
        overrides: strings `"key=value"`, converted to the type of the key.
        folder: folder of the named recipes; by default those that come with the package.
        data_folder: replaces the data folder. Nothing of it is held out.

    Returns:
        `Recipe` of the class that is registered under the first word of the file's name.

    Raises:
        FileNotFoundError: for a path of a missing file.
        ValueError: for an unknown recipe or key (suggests the nearest one), a missing key, a
            value that is not allowed, and a file that cannot be run.
    """
    path = pathlib.Path(name)
    if path.suffix != ".py":
        files = sorted(pathlib.Path(folder or recipes_folder()).glob("[!_]*.py"))
        name = f"{name}_folder" if name in RECIPES else str(name)
        path = lookup("recipe", name, {file.stem: file for file in files})
    values = _run(path)
    variants = values.pop("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise ValueError(f"{path}: `variants` must be a dict of dicts, {{preset: {{key: value}}}}.")
    recipe_class = RECIPES[path.stem.partition("_")[0]]
    overrides = _parse_overrides(recipe_class, overrides, data_folder)
    for key in recipe_class.variant_keys:
        if key == "preset" and key in overrides:
            overrides[key] = _full_name(overrides[key], values.get(key))
        value = overrides.get(key, values.get(key))
        if isinstance(value, str):
            values |= variants.get(value, {})
    return _create(recipe_class, values, overrides, path)


def load_saved_recipe(
    path: PathLike, overrides: Iterable[str] = (), data_folder: str | None = None
) -> Recipe:
    """Reads the `recipe.json` of a run folder and applies overrides.

    Args:
        path: path of the file.
        overrides, data_folder: as in `load_recipe`.

    Raises:
        ValueError: as in `load_recipe`, and if the file is not JSON.
    """
    path = pathlib.Path(path)
    values = read_json_object(path)
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in RECIPES:
        raise ValueError(
            f"{path}: `kind` must be one of {', '.join(RECIPES)}. Received: {reprlib.repr(kind)}"
        )
    overrides = _parse_overrides(RECIPES[kind], overrides, data_folder)
    return _create(RECIPES[kind], values, overrides, path)


def recognized_tasks(folder: PathLike) -> list[str]:
    """Returns the kinds of recipes for which a folder has a known format.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is none.
    """
    found = []
    for kind in RECIPES:
        with contextlib.suppress(ValueError):
            find_reader(kind, AUTO, folder)
            found.append(kind)
    if "detection" in found and "instances" in found:
        found.remove("instances")  # The same objects, all of which may be without masks.
    if not found:
        raise ValueError(
            f"{folder} has no known format of {', '.join(RECIPES)} data. `--task` says what is "
            f"expected. It contains:\n{tree(folder)}"
        )
    return found


def _full_name(preset, own_preset):
    """Returns the long name of a preset of the family that a recipe uses, if it is one of them."""
    for cls in BACKBONES.values():
        for variant in cls.presets:
            if own_preset == cls.preset_prefix + variant and preset in cls.presets:
                return cls.preset_prefix + preset
    return preset


def _run(path):
    """Returns {name: value} that a recipe file defines."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe file {path}.")
    try:
        defined = runpy.run_path(str(path))
    except Exception as error:  # Of any code.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The recipe {path} cannot be run: {type(error).__name__}: {reason}"
        ) from error
    return {
        key: value
        for key, value in defined.items()
        if not key.startswith("_")
        and not isinstance(value, (types.ModuleType, type))
        and not inspect.isroutine(value)
    }


def _parse_overrides(recipe_class, overrides, data_folder):
    """Returns {key: value} of strings "key=value"; values of type str need no quotes."""
    key_types = _key_types(recipe_class)
    values = {}
    if data_folder is not None:
        values = {"data_folder": data_folder}
        if "validation_share" in key_types:
            values["validation_share"] = 0.0
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"An override must have the form key=value. Received: {override!r}")
        expected = lookup("recipe key", key, key_types)
        values[key] = text if expected is str else _typed(key, _parse_value(key, text), expected)
    return values


def _parse_value(key, text):
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):
        raise ValueError(
            f"Recipe key {key!r} must be a number, true or false. Received: {reprlib.repr(text)}"
        ) from None


def _typed(key, value, expected):
    """Returns a value of a key; an int for a float key as a float."""
    if expected is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    if type(value) is not expected:
        raise ValueError(
            f"Recipe key {key!r} must be {expected.__name__}. Received: {reprlib.repr(value)}"
        )
    return value


def _create(recipe_class, values, overrides, path):
    """Creates a recipe after checking keys and types of the file's values."""
    key_types, checked = _key_types(recipe_class), {}
    for key, value in values.items():
        expected = lookup(f"key in {path}:", key, key_types)
        try:
            checked[key] = _typed(key, value, expected)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    checked |= overrides
    fields = dataclasses.fields(recipe_class)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    missing = [key for key in required if key not in checked]
    if missing:
        raise ValueError(f"Recipe {str(path)!r} lacks {', '.join(missing)}.")
    return recipe_class(**checked)


def _key_types(recipe_class):
    return {field.name: field.type for field in dataclasses.fields(recipe_class)}
