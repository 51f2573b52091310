"""Checks of untrusted configurations."""

import json

import pytest

import keras_spm
from keras_spm.backbones import PyramidBackbone
from keras_spm.converters import register_config, register_layouts
from keras_spm.converters.validation import (
    build_without_memory,
    check_arguments,
    check_backbone,
    check_size,
)
from keras_spm.weights import FormatError, MismatchError
from keras_spm.weights.key_mapping import Layout
from tests import golden


def _build(preset, **arguments):
    return PyramidBackbone.from_preset(preset, load_weights=False, **arguments)


@pytest.mark.parametrize(
    "preset",
    [
        "pvt_v2_spm_mini",
        *(
            pytest.param(name, marks=pytest.mark.only("torch"))
            for name in ("pvt_tiny", "swin_spm_tiny")
        ),
    ],
)
def test_abstract_variables_have_names_and_shapes(preset):
    abstract = build_without_memory(lambda: _build(preset))
    expected = {variable.path: tuple(variable.shape) for variable in _build(preset).weights}
    assert {each.path: tuple(each.shape) for each in abstract.weights} == expected


@pytest.mark.only("torch")
def test_a_huge_model_takes_no_memory():
    dims = (65536,) * 4
    model = build_without_memory(lambda: _build("pvt_v2_mini", embed_dims=dims, num_heads=(1,) * 4))
    with pytest.raises(FormatError, match="the preset describes a model of [0-9]+ parameters"):
        check_size(model, "the preset")


@pytest.mark.only("torch")  # Presets do not depend on the backend.
@pytest.mark.parametrize("preset", ["pvt_large", "pvt_v2_b5", "swin_base"])
def test_largest_presets_are_allowed(preset):
    model = build_without_memory(lambda: _build(preset))
    check_size(model, preset)
    check_backbone({"depths": model.depths, "dtype": "float32"}, None, preset)


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    "value",
    [1 << 17, -(1 << 17), float("nan"), float("inf"), "a" * 2000, [0.5] * 100, [[[[[[1]]]]]]]
    + [["a"] * (1 << 17), {"class_name": "Lambda", "config": {}}, {"a": {"class_name": "a"}}],
    ids=lambda value: str(value)[:20],
)
def test_invalid_arguments_are_named(value):
    with pytest.raises(FormatError, match="the file: `mean` must be a plain value"):
        check_arguments({"mean": value}, "the file")


@pytest.mark.only("torch")
def test_plain_arguments_are_allowed():
    preprocessing = {"image_size": (224, 224), "crop_pct": None, "interpolation": "bicubic"}
    names = ["name"] * 21_841
    check_arguments({"a": -1, "b": None, "c": True, "d": preprocessing, "e": names}, "the file")


def _edit_config(folder, **arguments):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["backbone"]["config"] |= arguments
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"embed_dims": [65536] * 4, "num_heads": [1] * 4}, MismatchError, "shape: stem/"),
        ({"sr_ratios": [4096, 1, 1, 1]}, MismatchError, "shape: stage1/block1/attention/reduction"),
        ({"mlp_ratios": [65536] * 4}, MismatchError, "shape: .*mlp"),
        ({"depths": [65536] * 4}, FormatError, "`depths` must be at most"),
        ({"image_shape": None, "drop_path_rate": 300}, FormatError, "`drop_path_rate` must be at"),
        ({"dtype": "int8"}, FormatError, "`dtype` must be one of"),
    ],
)
def test_configuration_that_the_weights_do_not_fit(tmp_path, arguments, error, message):
    """The weights are compared with the configuration before memory is allocated."""
    golden.backbone("pvt_v2").save_to_preset(tmp_path / "saved")
    _edit_config(tmp_path / "saved", **arguments)
    with pytest.raises(error, match=message):
        keras_spm.PVTv2.from_preset(tmp_path / "saved")


class OwnFamily(keras_spm.PVTv2):
    """A user's family, known to a library under another name."""

    def __init__(self, embed_dims, **kwargs):
        super().__init__(embed_dims, (1,) * 4, (1,) * 4, (1,) * 4, (1,) * 4, **kwargs)


def _read(config, match):
    return "OwnFamily", None, {"embed_dims": config["dims"], "image_shape": (32, 32, int(match[1]))}


register_config("timm", "own_family_([0-9])", _read)


@pytest.mark.only("torch")
def test_registered_configuration(tmp_path):
    """A family outside the package reads a timm folder, with the layouts of its parent."""
    config = {"architecture": "own_family_4", "dims": [8, 8, 8, 8], "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = PyramidBackbone.from_preset(tmp_path, load_weights=False)
    assert type(model) is OwnFamily and model.image_shape == (32, 32, 4)
    with pytest.raises(ValueError, match="`library` must be one of"):
        register_config("kimm", "own_family", _read)


@pytest.mark.only("torch")
def test_registered_layouts():
    layout = Layout("mine", ())
    register_layouts("OwnFamily", [layout])
    register_layouts("OwnFamily", [layout])  # As in a notebook cell that runs twice.
    assert keras_spm.list_layouts(OwnFamily((8,) * 4)) == ["mine"]
    with pytest.raises(ValueError, match="'PVTv2' is already registered"):
        register_layouts("PVTv2", [layout])
