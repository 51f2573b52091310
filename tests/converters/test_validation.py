"""Configurations: none that is right is refused, however large the model it describes."""

import pytest

from keras_spm.backbones import PVT
from keras_spm.backbones import PVTSPM
from keras_spm.backbones import PVTv2
from keras_spm.backbones import PVTv2SPM
from keras_spm.backbones import Swin
from keras_spm.backbones import SwinSPM
from keras_spm.converters.validation import check_extent
from keras_spm.weights import FormatError
from tests import golden

pytestmark = pytest.mark.only("torch")  # No backend is asked.

PRESETS = [
    pytest.param(arguments, id=f"{cls.preset_prefix}{name}")
    for cls in (PVT, PVTSPM, PVTv2, PVTv2SPM, Swin, SwinSPM)
    for name, arguments in cls.presets.items()
]


@pytest.mark.parametrize("name", golden.BACKBONES)
@pytest.mark.parametrize("shape", [None, (64, 64, 3)])
def test_what_the_weights_hold_is_taken(name, shape):
    arguments = {**golden.backbone_arguments(name), "image_shape": shape, "dtype": "float32"}
    check_extent(arguments, golden.CLASSES, golden.state(name), name)


@pytest.mark.parametrize("name", golden.BACKBONES)
def test_more_blocks_than_they_hold_are_not(name):
    arguments = golden.backbone_arguments(name)
    arguments["depths"] = [5 * depth for depth in arguments["depths"]]
    with pytest.raises(FormatError, match="the folder describes .* blocks; there are weights for"):
        check_extent(arguments, None, golden.state(name), "the folder")


@pytest.mark.parametrize("name", golden.BACKBONES)
def test_more_classes_than_they_hold_are_not(name):
    with pytest.raises(FormatError, match="the folder describes .* parameters or more"):
        check_extent(golden.backbone_arguments(name), 10_000, golden.state(name), "the folder")


@pytest.mark.parametrize("arguments", PRESETS)
def test_presets_are_taken_unseen(arguments):
    check_extent(arguments, 21_841, None, "the preset")


def test_the_argument_is_named():
    with pytest.raises(FormatError, match=r"`depths` must be four whole .*\[1, 2, 3\]"):
        check_extent({"depths": [1, 2, 3]}, None, {}, "the folder")
