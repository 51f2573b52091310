"""What a preset's name stands for, and its weights as they are there."""

import dataclasses
import os
import pathlib
import typing

from keras_spm.backbones import PVT
from keras_spm.backbones import PVTSPM
from keras_spm.backbones import PVTv2
from keras_spm.backbones import PVTv2SPM
from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones import Swin
from keras_spm.backbones import SwinSPM
from keras_spm.cards import Card
from keras_spm.cards import read_card
from keras_spm.converters.hf_config import CONFIG
from keras_spm.converters.hf_config import OWN_FORMAT
from keras_spm.converters.hf_config import Description
from keras_spm.converters.hf_config import describe
from keras_spm.registry import lookup
from keras_spm.weights import hub
from keras_spm.weights.errors import FormatError
from keras_spm.weights.formats import read_arrays
from keras_spm.weights.formats import sha256_of

BACKBONES = (PVT, PVTSPM, PVTv2, PVTv2SPM, Swin, SwinSPM)
# The weight file of our own folders.
WEIGHTS = "model.safetensors"


def list_presets():
    """Returns the long names of all presets, as tasks take them."""
    return list(_long_names())


def _long_names():
    return {f"{cls.preset_prefix}{name}": cls for cls in BACKBONES for name in cls.presets}


class Weights(typing.NamedTuple):
    """arrays: {name: numpy array}; layout: of the names; where: what to call them."""

    arrays: dict
    layout: str
    where: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that can be built, and perhaps its weights.

    Attributes:
        name: what the user called it.
        wanted: class of backbone to make of it.
        description: of the model that is there.
        folder: path of a local folder with weights, or None.
        snapshot: of the hub, or None.
        card: `Card` of the weights, where they are a preset's.
    """

    name: str
    wanted: type
    description: Description
    folder: pathlib.Path | None = None
    snapshot: hub.Snapshot | None = None
    card: Card | None = None

    @property
    def is_foreign(self):
        """Whether the description comes from somebody's folder, and may say anything."""
        return self.folder is not None or self.snapshot is not None

    def read(self):
        """Returns the `Weights`, downloaded where they are on the hub."""
        folder = self.folder
        if self.snapshot is not None:
            hub.fetch_weights(self.snapshot, self.card and self.card.sha256)
            folder = self.snapshot.folder
        arrays, where = read_arrays(folder)
        # Not before: of a file that holds no weights, any number of bytes could be summed.
        _check_sha256(folder / WEIGHTS, self.description.sha256)
        return Weights(arrays, self.description.layout, where)


def find_source(wanted, name, with_weights):
    """Finds out what a name stands for.

    Args:
        wanted: class of backbone.
        name: a preset's, a folder, or an address on the hub.
        with_weights: whether a preset's published weights are wanted.

    Returns:
        A `Source`.

    Raises:
        ValueError: for an unknown name, and a preset without published weights.
        WeightsError: where a configuration cannot be had or is none.
    """
    if hub.is_address(name):
        snapshot = hub.fetch_snapshot(name)
        return Source(name, wanted, describe(snapshot.folder), snapshot=snapshot)
    if _is_folder(name):
        return folder_source(name, wanted)
    cls, variant = _named(wanted, name)
    card = _card(cls, variant)
    if with_weights:
        return _published(cls, variant, card, name)
    description = Description(OWN_FORMAT, cls.__name__, {}, variant, card.classifier or None)
    return Source(name, cls, description)


def folder_source(folder, wanted=PyramidBackbone):
    """Returns the `Source` that a folder is."""
    return Source(str(folder), wanted, describe(folder), folder=pathlib.Path(folder))


def _is_folder(name):
    # Not Path.is_dir, which raises for names that no file can have.
    path = pathlib.Path(name)
    return os.path.isdir(path) and (len(path.parts) > 1 or os.path.lexists(path / CONFIG))


def _named(wanted, name):
    """(class, short name) of a preset's short or long name."""
    if wanted is PyramidBackbone:
        wanted = lookup("preset", str(name), _long_names())
    variant = str(name).removeprefix(wanted.preset_prefix)
    lookup(f"{wanted.__name__} preset", variant, wanted.presets)
    return wanted, variant


def _card(cls, variant):
    """The variant's card; with SPM and nothing published, that of the variant without."""
    families = [each for each in cls.__mro__ if each in BACKBONES]
    cards = [read_card(f"{family.preset_prefix}{variant}") for family in families]
    return next((card for card in cards if card.address is not None), cards[0])


def _published(cls, variant, card, name):
    if card.address is None:
        raise ValueError(
            f"No weights are published for {cls.__name__} {variant!r}. Pass "
            "`load_weights=False` for random weights; `keras_spm.load_torch_weights` then "
            "loads a PyTorch checkpoint."
        )
    snapshot = hub.fetch_snapshot(card.address)
    description = describe(snapshot.folder)
    described = {**cls.presets.get(description.variant, {}), **description.arguments}
    for argument, value in cls.presets[variant].items():
        if argument in described and _plain(described[argument]) != _plain(value):
            raise FormatError(
                f"{card.address} holds another variant than {variant!r}: "
                f"{argument}={described[argument]}, not {value}."
            )
    description = dataclasses.replace(description, task_arguments=card.classifier)
    return Source(name, cls, description, snapshot=snapshot, card=card)


def _plain(value):
    return list(value) if isinstance(value, (tuple, list)) else value


def _check_sha256(path, expected):
    if expected is not None and path.is_file() and (found := sha256_of(path)) != expected:
        raise FormatError(
            f"{path} is damaged, or not the file that the {CONFIG} beside it was written "
            f"with: its sha256 is {found}, not {expected}."
        )
