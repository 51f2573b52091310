"""Presets: from a name, a folder or an address to a backbone or a task, and back."""

import inspect
import json
import pathlib
import shutil
import warnings

import keras

from keras_spm.backbones import PVT
from keras_spm.backbones import PVTSPM
from keras_spm.backbones import PVTv2
from keras_spm.backbones import PVTv2SPM
from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones import Swin
from keras_spm.backbones import SwinSPM
from keras_spm.cards import read_card
from keras_spm.converters import load_torch_weights
from keras_spm.converters import variables_of
from keras_spm.converters.descriptions import CONFIG
from keras_spm.converters.descriptions import OWN_FORMAT
from keras_spm.converters.descriptions import Description
from keras_spm.converters.descriptions import describe
from keras_spm.registry import lookup
from keras_spm.registry import register_loader
from keras_spm.registry import register_saver
from keras_spm.version import __version__
from keras_spm.weights import hub
from keras_spm.weights import ledger
from keras_spm.weights.errors import FormatError
from keras_spm.weights.formats import read_arrays
from keras_spm.weights.formats import write_safetensors
from keras_spm.weights.rules import OWN_LAYOUT

_BACKBONES = (PVT, PVTSPM, PVTv2, PVTv2SPM, Swin, SwinSPM)
_BY_NAME = {cls.__name__: cls for cls in _BACKBONES}
_WEIGHTS = "model.safetensors"
# What a saved configuration leaves to the one who loads it.
_PERSONAL = ("name", "trainable", "backbone")


def list_presets():
    """Returns the long names of all presets, as tasks take them."""
    return list(_long_names())


def _long_names():
    return {f"{cls.preset_prefix}{name}": cls for cls in _BACKBONES for name in cls.presets}


# Loading


@register_loader
def _load_preset(cls, name, load_weights, arguments):
    is_backbone = issubclass(cls, PyramidBackbone)
    wanted = cls if is_backbone else PyramidBackbone
    if hub.is_address(name):
        folder = hub.fetch_folder(name)
        description = describe(folder)
    elif _is_folder(name):
        folder = pathlib.Path(name)
        description = describe(folder)
    else:
        wanted, variant = _named(wanted, name)
        folder, description = _published(wanted, variant) if load_weights else (None, None)
        if description is None:
            description = Description(OWN_FORMAT, wanted.__name__, {}, variant)
    backbone_class = _backbone_class(wanted, description, name)
    given = {**backbone_class.presets.get(description.variant, {}), **description.arguments}
    if backbone_class.__name__ != description.backbone:
        given.pop("merging", None)  # The class wanted has its own.
    try:
        if is_backbone:
            model = backbone_class(**{**given, **arguments})
        else:
            classifier = _classifier_arguments(description.classifier, arguments, name)
            model = cls(backbone_class(**given), **classifier)
    except TypeError as error:
        if folder is None:  # Then the caller's arguments alone can be wrong.
            raise
        raise FormatError(f"{name} cannot be built: {error}") from error
    if load_weights:
        model.load_report = _load_weights(model, folder, description, name)
    return model


def _is_folder(name):
    path = pathlib.Path(name)
    return path.is_dir() and (len(path.parts) > 1 or (path / CONFIG).is_file())


def _named(wanted, name):
    """(class, short name) of a preset's short or long name."""
    if wanted is PyramidBackbone:
        wanted = lookup("preset", str(name), _long_names())
    variant = str(name).removeprefix(wanted.preset_prefix)
    lookup(f"{wanted.__name__} preset", variant, wanted.presets)
    return wanted, variant


def _published(cls, variant):
    """(folder, description) of a preset's published weights.

    Where none are published with Stepwise Patch Merging, those of the same variant
    without it.
    """
    families = [each for each in cls.__mro__ if each in _BACKBONES]
    cards = [read_card(f"{family.preset_prefix}{variant}") for family in families]
    card = next((card for card in cards if card.address is not None), None)
    if card is None:
        raise ValueError(
            f"No weights are published for {cls.__name__} {variant!r}. Pass "
            "`load_weights=False` for random weights; `keras_spm.load_torch_weights` then "
            "loads a PyTorch checkpoint."
        )
    folder = hub.fetch_folder(card.address)
    description = describe(folder)
    described = {**cls.presets.get(description.variant, {}), **description.arguments}
    for argument, value in cls.presets[variant].items():
        if argument in described and _plain(described[argument]) != _plain(value):
            raise FormatError(
                f"{card.address} holds another variant than {variant!r}: "
                f"{argument}={described[argument]}, not {value}."
            )
    return folder, description


def _plain(value):
    return list(value) if isinstance(value, (tuple, list)) else value


def _backbone_class(wanted, description, name):
    """The class to build: what was found, or with SPM what was wanted on its ground."""
    found = lookup("backbone class", description.backbone, _BY_NAME)
    if issubclass(found, wanted):
        return found
    if issubclass(wanted, found):
        return wanted
    raise ValueError(f"{name} holds a {found.__name__}, not a {wanted.__name__}.")


def _classifier_arguments(saved, arguments, name):
    """What was saved of a classifier, but for what the caller wants otherwise."""
    merged = {**(saved or {}), **arguments}
    if "num_classes" not in merged:
        raise ValueError(f"`num_classes` must be given: {name} comes without a classifier.")
    if saved and saved["num_classes"] != merged["num_classes"] and "class_names" not in arguments:
        merged.pop("class_names", None)
    return merged


def _load_weights(model, folder, description, name):
    """Loads all, or where the model alone has Stepwise Patch Merging, what is shared."""
    backbone = getattr(model, "backbone", model)
    source_class = _BY_NAME[description.backbone]
    default = inspect.signature(source_class).parameters["merging"].default
    merging = description.arguments.get("merging", default)
    if backbone.merging == merging:
        return _load_all(model, folder, description)
    ground = _with_merging(model, merging)
    report = _load_all(ground, folder, description)
    sources, fresh = variables_of(ground), []
    for path, variable in variables_of(model).items():
        if "/merging/" in path:
            fresh.append(path)
        else:
            variable.assign(sources[path])
    stages = sorted({path.partition("/")[0] for path in fresh})
    warnings.warn(
        f"{name}: no weights are published with this merging. All else is filled from those "
        f"of {description.backbone}; fresh are the mergings of {', '.join(stages)}.",
        stacklevel=5,
    )
    return report.without(fresh)


def _load_all(model, folder, description):
    if description.layout != OWN_FORMAT:
        return load_torch_weights(model, folder)
    arrays, source = read_arrays(folder)
    return ledger.load(variables_of(model), arrays, OWN_LAYOUT, source)


def _with_merging(model, merging):
    """A model like this one, with another merging and its own values."""
    backbone = getattr(model, "backbone", model)
    backbone = type(backbone).from_config({**backbone.get_config(), "merging": merging})
    if not hasattr(model, "backbone"):
        return backbone
    return type(model)(backbone, **_own_config(model))


# Saving


@register_saver
def _save_preset(model, folder):
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already and is not an empty folder.")
    backbone = getattr(model, "backbone", model)
    config = {
        "format": OWN_FORMAT,
        "version": __version__,
        "backbone": {
            "class": type(backbone).__name__,
            "config": {**_own_config(backbone), "dtype": backbone.dtype_policy.name},
        },
        "classifier": None if model is backbone else _own_config(model),
    }
    values = {
        path: keras.ops.convert_to_numpy(variable).astype("float32")
        for path, variable in variables_of(model).items()
    }
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        write_safetensors(unfinished / _WEIGHTS, ledger.write(values, OWN_LAYOUT))
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _own_config(model):
    return {key: value for key, value in model.get_config().items() if key not in _PERSONAL}
