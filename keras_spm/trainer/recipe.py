"""Recipes: flat, typed values in a small Python file."""

import dataclasses
import json
import pathlib
import runpy
import types

from keras_spm.registry import lookup


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationRecipe:
    """Everything that decides an image-classification training.

    Attributes:
        preset: long name of a backbone preset.
        dataset: name of a data set.
        epochs: passes over the training part.
        batch_size: images a step.
        learning_rate: its peak, after warm-up; it falls to 0 by a cosine.
        warmup_epochs: epochs of linear rise to the peak.
        weight_decay: AdamW's, on kernels.
        drop_path_rate: of the last block.
        rotation: largest turn of augmentation, in degrees.
        zoom: largest relative change of size.
        translation: largest shift, as a share of the side.
        seed: of weights, order and augmentation.
    """

    preset: str
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: int
    weight_decay: float
    drop_path_rate: float
    rotation: float
    zoom: float
    translation: float
    seed: int

    def __post_init__(self):
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                "`warmup_epochs` must be at least 0 and less than `epochs`. Received: "
                f"warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )

    def as_dict(self):
        return dataclasses.asdict(self)


def load_recipe(name, folder, overrides=()):
    """Reads a recipe file and applies overrides.

    Args:
        name: the file's name without `.py`.
        folder: where recipe files are.
        overrides: `"key=value"` strings; values are read as the key's type.

    Returns:
        A `ClassificationRecipe`.

    Raises:
        ValueError: for an unknown recipe or key (says the nearest), a missing key, or a
            value of another type.
    """
    files = {path.stem: path for path in sorted(pathlib.Path(folder).glob("*.py"))}
    namespace = runpy.run_path(str(lookup("recipe", name, files)))
    values = {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_") and not isinstance(value, types.ModuleType)
    }
    fields = {field.name: field.type for field in dataclasses.fields(ClassificationRecipe)}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"An override must read key=value. Received: {override!r}")
        values[key] = text if lookup("recipe key", key, fields) is str else _number(key, text)
    for key, value in values.items():
        kind = lookup("recipe key", key, fields)
        if kind is float and type(value) is int:
            value = values[key] = float(value)
        if type(value) is not kind:
            raise ValueError(f"Recipe key {key!r} must be {kind.__name__}. Received: {value!r}")
    missing = [key for key in fields if key not in values]
    if missing:
        raise ValueError(f"Recipe {name!r} lacks {', '.join(missing)}.")
    return ClassificationRecipe(**values)


def _number(key, text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(f"Recipe key {key!r} takes a number. Received: {text!r}") from None
