"""Finds the configuration and the weights of a preset's name, folder or hub address."""

import dataclasses
import os
import pathlib
from typing import NamedTuple

import numpy as np

from keras_spm.backbones import PyramidBackbone
from keras_spm.cards import Card, WeightFile, read_card
from keras_spm.cards.task_card import read_task_card, task_presets
from keras_spm.converters.hf_config import CONFIG, ModelConfig, as_classifier, read_config
from keras_spm.registry import BACKBONES, TASKS, lookup
from keras_spm.types import PathLike
from keras_spm.weights import hub
from keras_spm.weights.errors import FormatError
from keras_spm.weights.formats import read_arrays, sha256_of
from keras_spm.weights.key_mapping import OWN_FORMAT

WEIGHTS = "model.safetensors"  # In folders of this package.


def list_presets() -> list[str]:
    """Returns the long names of all presets: of backbones, then of trained dense models."""
    return [*_long_names(), *task_presets()]


def _long_names():
    """Returns {long name: class}; a class has long names if it defines `preset_prefix`."""
    return {
        f"{cls.preset_prefix}{variant}": cls
        for cls in BACKBONES.values()
        if "preset_prefix" in vars(cls)
        for variant in cls.presets
    }


class Weights(NamedTuple):
    """Arrays, their layout, and the name of their source."""

    arrays: dict[str, np.ndarray]
    layout: str
    source: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A model's configuration, and the location of its weights."""

    name: str  # As the user gave it.
    wanted: type[PyramidBackbone]  # The class that the user asked for.
    config: ModelConfig  # Of the model found.
    folder: pathlib.Path | None = None
    snapshot: hub.Snapshot | None = None
    card: WeightFile | None = None

    @property
    def is_untrusted(self) -> bool:
        """Whether the configuration comes from a folder or the hub."""
        return self.folder is not None or self.snapshot is not None

    def read(self) -> Weights:
        """Reads the weights, after downloading them if they are on the hub."""
        folder = self.folder
        if self.snapshot is not None:
            hub.fetch_weights(self.snapshot, self.card and self.card.sha256)
            folder = self.snapshot.folder
        arrays, name = read_arrays(folder)
        # After reading, which refuses files of any size that are not weights.
        _check_sha256(folder / WEIGHTS, self.config.sha256)
        return Weights(arrays, self.config.layout, name)


def find_source(wanted: type[PyramidBackbone], name: PathLike, with_weights: bool) -> Source:
    """Finds a model by the name of a preset, its folder, or its address on the hub.

    Raises:
        ValueError: for an unknown name, or (`with_weights`) without published weights.
        WeightsError: if a configuration cannot be downloaded or is invalid.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ValueError(
            "`name` must be the name of a preset, a folder, or an address on the hub. "
            f"Received: name={name!r}"
        )
    if hub.is_address(name):
        snapshot = hub.fetch_snapshot(name)
        return Source(name, wanted, read_config(snapshot.folder), snapshot=snapshot)
    if _is_folder(name):
        return folder_source(name, wanted)
    if name in task_presets():
        return _task_source(name, wanted, with_weights)
    cls, variant = _parse_name(wanted, name)
    card = _find_card(cls, variant)
    if with_weights:
        return _published(cls, variant, card, name)
    config = ModelConfig(OWN_FORMAT, cls.__name__, {}, variant)
    return Source(name, cls, as_classifier(config, card.classifier))


def folder_source(folder: PathLike, wanted: type[PyramidBackbone] = PyramidBackbone) -> Source:
    """Returns the source of a local folder."""
    return Source(str(folder), wanted, read_config(folder), folder=pathlib.Path(folder))


def _is_folder(name):
    # Not Path.is_dir, which raises for some invalid paths.
    path = pathlib.Path(name)
    return os.path.isdir(path) and (len(path.parts) > 1 or os.path.lexists(path / CONFIG))


def _parse_name(wanted, name):
    """Returns (class, short name) of a preset's short or long name."""
    if wanted is PyramidBackbone:
        wanted = lookup("preset", str(name), {**_long_names(), **dict.fromkeys(task_presets())})
    variant = str(name).removeprefix(wanted.preset_prefix)
    lookup(f"{wanted.__name__} preset", variant, wanted.presets)
    return wanted, variant


def _find_card(cls, variant):
    """Returns the variant's card; without published weights, that of the parent family."""
    cards = [
        read_card(f"{family.preset_prefix}{variant}")
        for family in cls.__mro__
        if vars(family).get("preset_prefix") and family.presets.get(variant) == cls.presets[variant]
    ]
    return next((card for card in cards if card.address is not None), Card())


def _published(cls, variant, card, name):
    if card.address is None:
        raise ValueError(
            f"No weights are published for {cls.__name__} {variant!r}. Pass "
            "`load_weights=False` for random weights; `keras_spm.load_torch_weights` then "
            "loads a PyTorch checkpoint."
        )
    snapshot = hub.fetch_snapshot(card.address)
    config = read_config(snapshot.folder)
    described = {**cls.presets.get(config.variant, {}), **config.arguments}
    _check_same(card, variant, described, cls.presets[variant])
    config = as_classifier(config, card.classifier)
    return Source(name, cls, config, snapshot=snapshot, card=card)


def _task_source(name, wanted, with_weights):
    """Returns the source of a trained dense model; without weights if they are not on the hub."""
    card = read_task_card(name)
    cls, variant = _parse_name(PyramidBackbone, card.backbone)
    head = TASKS[card.task].head_argument
    arguments = {**card.class_arguments, "batching": card.batching, head: card.head_config}
    config = ModelConfig(
        OWN_FORMAT,
        cls.__name__,
        card.backbone_arguments,
        variant,
        task=card.task,
        task_arguments=arguments,
        task_layers=(head,),
    )
    if not with_weights or card.address is None:
        return Source(name, wanted, config, card=card)
    snapshot = hub.fetch_snapshot(card.address)
    found = read_config(snapshot.folder)
    found_head = found.task_arguments.get(head, {"class": None, "config": {}})
    described = {**found.arguments, **found_head["config"], "head": found_head["class"]}
    described |= {"backbone": found.backbone, "task": found.task}
    expected = {**cls.presets[variant], **card.backbone_arguments, **card.head_config["config"]}
    expected |= {"head": card.head, "backbone": config.backbone, "task": card.task}
    _check_same(card, name, described, expected)
    # Of the card: names and sizes. Of the configuration: the head, mean and std.
    task_arguments = {**arguments, **found.task_arguments, **card.class_arguments}
    task_arguments["batching"] = card.batching
    found = dataclasses.replace(found, task_arguments=task_arguments)
    return Source(name, wanted, found, snapshot=snapshot, card=card)


def _check_same(card, variant, described, expected):
    """Compares what a configuration on the hub describes with what a preset says."""
    for argument, value in expected.items():
        if argument in described and _to_list(described[argument]) != _to_list(value):
            raise FormatError(
                f"{card.address} has another variant than {variant!r}: "
                f"{argument}={described[argument]}, not {value}."
            )


def _to_list(value):
    return list(value) if isinstance(value, (tuple, list)) else value


def _check_sha256(path, expected):
    if expected is not None and path.is_file() and (found := sha256_of(path)) != expected:
        raise FormatError(
            f"{path} is damaged, or was not written with the {CONFIG} in its folder: its "
            f"sha256 is {found}, expected {expected}."
        )
