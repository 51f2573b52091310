"""The list of recipes and their keys, for `keras-spm train --help`."""

import ast
import dataclasses
import inspect
import json
import re

from keras_spm.registry import RECIPES
from keras_spm.trainer.recipe_files import recipes_folder

# In the section "Attributes:" of a docstring: names, then lines of text, indented further.
_ENTRY = re.compile(r"^    (\w[\w, ]*): (.+(?:\n        .+)*)", re.MULTILINE)


def describe_recipes() -> str:
    """Returns the recipes that come with the package, and the keys of each kind, as text."""
    lines = ["recipes:"]
    for path in sorted(recipes_folder().glob("[!_]*.py")):
        summary = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {path.stem:<30} {summary.partition(chr(10))[0]}")
    for kind, recipe_class in RECIPES.items():
        lines += ["", f"keys of {kind} recipes, for --set:"]
        documented = _documented_keys(recipe_class)
        for field in dataclasses.fields(recipe_class):
            is_required = field.default is dataclasses.MISSING
            default = "" if is_required else f" = {json.dumps(field.default)}"
            lines.append(f"  {field.name}: {field.type.__name__}{default}")
            lines.append(f"      {documented.get(field.name, '')}")
    return "\n".join(lines)


def _documented_keys(recipe_class):
    """Returns {key: first sentence} of the attributes in the docstrings of a recipe class."""
    found = {}
    for cls in reversed(recipe_class.__mro__):
        _, _, text = (inspect.cleandoc(cls.__doc__ or "")).partition("\nAttributes:\n")
        text = text.partition("\n\n")[0]
        for names, sentences in _ENTRY.findall(text):
            sentence = " ".join(sentences.split()).partition(". ")[0].rstrip(".")
            found |= dict.fromkeys(names.split(", "), sentence)
    return found
