"""Loading PyTorch weights: everything or nothing."""

import pathlib
import struct

import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from keras_spm import ImageClassifier
from keras_spm import PVTv2SPM
from keras_spm import load_torch_weights
from keras_spm.layers import GuidedLocalEnhancement
from keras_spm.layers import MultiScaleAggregation
from keras_spm.weights import FormatError
from keras_spm.weights import MismatchError
from tests import golden
from tests.helpers import difference
from tests.helpers import to_numpy

NAME = "pvt_v2_spm"


def _classifier(num_classes=7):
    return ImageClassifier(PVTv2SPM(**golden.backbone_arguments(NAME)), num_classes)


@pytest.fixture(scope="module")
def model():
    return _classifier()


def _values(model):
    return [to_numpy(variable) for variable in model.weights]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_files_and_mappings_load_the_same(model, tmp_path, suffix):
    load_torch_weights(model, golden.state(NAME))
    expected = _values(model)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(golden.state(NAME), path)
    else:
        torch.save({key: torch.tensor(array) for key, array in golden.state(NAME).items()}, path)
    for variable in model.weights:
        variable.assign(keras.ops.zeros(variable.shape))
    report = load_torch_weights(model, path, layout="official")
    assert len(report.loaded) == len(model.weights)
    assert str(path) in str(report)
    assert all((left == right).all() for left, right in zip(_values(model), expected, strict=True))


def test_every_tensor_arrives_where_it_belongs(model):
    """Each variable holds the tensor that the report names, in Keras's axis order."""
    report = load_torch_weights(model, golden.state(NAME))
    state = golden.state(NAME)
    assert len(set(report.loaded.values())) == len(report.loaded)
    by_path = {variable.path: to_numpy(variable) for variable in model.weights}
    for path, name in report.loaded.items():
        assert sorted(by_path[path].ravel()) == sorted(state[name].ravel()), path


def test_a_backbone_leaves_the_head_out():
    backbone = PVTv2SPM(**golden.backbone_arguments(NAME))
    report = load_torch_weights(backbone, golden.state(NAME))
    assert sorted(report.left_over) == ["head.bias", "head.weight"]
    assert not report.fresh and "left over: head" in str(report)


def test_a_head_for_other_classes_stays_fresh():
    model = _classifier(num_classes=3)
    before = to_numpy(model.get_layer("head").kernel)
    report = load_torch_weights(model, golden.state(NAME))
    assert sorted(report.fresh) == ["head/bias", "head/kernel"]
    assert sorted(report.left_over) == ["head.bias", "head.weight"]
    assert difference(model.get_layer("head").kernel, before) == 0


def test_a_file_without_head_leaves_it_fresh(model):
    state = {key: array for key, array in golden.state(NAME).items() if "head" not in key}
    assert sorted(load_torch_weights(model, state).fresh) == ["head/bias", "head/kernel"]


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_half_precision_is_widened_and_reported(model, tmp_path, dtype):
    state = {
        key: array.astype(dtype) if array.dtype == "float32" else array
        for key, array in golden.state(NAME).items()
    }
    save_file(state, tmp_path / "half.safetensors")
    report = load_torch_weights(model, tmp_path / "half.safetensors")
    assert len(report.widened) == len(report.loaded)
    kernel = model.get_layer("head").kernel
    assert difference(kernel, state["head.weight"].T.astype("float32")) == 0


@pytest.mark.parametrize("layer", [MultiScaleAggregation(32), GuidedLocalEnhancement()])
def test_halves_of_spm_load_alone(layer):
    arrays, _ = golden.read("spm_layer_16_32")
    prefix = {"MultiScaleAggregation": "msa.", "GuidedLocalEnhancement": "gle."}[
        type(layer).__name__
    ]
    inputs = arrays["input"] if prefix == "msa." else arrays["msa"]
    layer.build(inputs.shape)
    state = golden.state("spm_layer_16_32")
    load_torch_weights(
        layer, {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    )
    expected = arrays["msa"] if prefix == "msa." else arrays["output"]
    assert difference(layer(inputs), expected) <= 1e-5


def _renamed(state):
    state["norm1.gain"] = state.pop("norm1.weight")


MUTATIONS = {
    "dropped": (lambda state: state.pop("norm1.weight"), "missing: norm1.weight"),
    "added": (lambda state: state.update(extra=np.zeros(3, "f")), "unexpected: extra"),
    "renamed": (_renamed, "missing: norm1.weight\nunexpected: norm1.gain"),
    "transposed": (
        lambda state: state.update({"block1.0.mlp.fc1.weight": state["block1.0.mlp.fc1.weight"].T}),
        r"block1.0.mlp.fc1.weight is \(8, 32\), stage1/block1/mlp/fc1/kernel needs \(32, 8\)",
    ),
    "integers": (
        lambda state: state.update({"norm1.weight": state["norm1.weight"].astype("int32")}),
        "norm1.weight is int32, not a float",
    ),
    "not a number": (
        lambda state: state.update({"norm1.weight": state["norm1.weight"] * np.nan}),
        "norm1.weight holds NaN",
    ),
    "head of other features": (
        lambda state: state.update({"head.weight": np.zeros((5, 60), "f")}),
        r"head.weight is \(5, 60\)",
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_mapping_is_refused_and_changes_nothing(model, mutation):
    mutate, message = MUTATIONS[mutation]
    before, state = _values(model), dict(golden.state(NAME))
    mutate(state)
    with pytest.raises(MismatchError, match=message):
        load_torch_weights(model, state)
    assert all((left == right).all() for left, right in zip(_values(model), before, strict=True))


def test_another_models_file_is_refused(model):
    with pytest.raises(MismatchError, match="missing"):
        load_torch_weights(model, golden.state("pvt_v2"))
    with pytest.raises(MismatchError, match="no known layout"):
        load_torch_weights(model, {"encoder.weight": np.zeros(3, "f")})
    with pytest.raises(ValueError, match="layout='tim'"):
        load_torch_weights(model, golden.state(NAME), layout="tim")
    with pytest.raises(TypeError, match="Dense"):
        dense = keras.layers.Dense(2)
        dense.build((None, 2))
        load_torch_weights(dense, golden.state(NAME))
    with pytest.raises(ValueError, match="build"):
        load_torch_weights(MultiScaleAggregation(8), {})


def _write_header(path, text, data=b"\0" * 4):
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data)


def _duplicate_key(path):
    entry = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    _write_header(path, "{" + entry + "," + entry + "}")


def _truncated(path):
    save_file(golden.state(NAME), path)
    path.write_bytes(path.read_bytes()[:-100])


def _pickle_of_code(path):
    torch.save({"a": pathlib.PurePosixPath("a")}, path)


BROKEN_FILES = {
    "duplicate.safetensors": (_duplicate_key, r"names \['a'\] twice"),
    "truncated.safetensors": (_truncated, "not a valid safetensors file"),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "cut off"),
    "text.safetensors": (lambda path: _write_header(path, "hello"), "not JSON"),
    "code.pth": (_pickle_of_code, "not a PyTorch file of plain tensors"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "holds a list"),
    "nested.pth": (lambda path: torch.save({"a": {"b": torch.zeros(1)}}, path), "'a' is a dict"),
    "weights.h5": (lambda path: path.write_bytes(b"x"), "not from '.h5'"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_refused(model, tmp_path, name):
    write, message = BROKEN_FILES[name]
    write(tmp_path / name)
    with pytest.raises(FormatError, match=message):
        load_torch_weights(model, tmp_path / name)


def test_a_missing_file_and_a_non_path_are_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_torch_weights(model, tmp_path / "nowhere.pth")
    with pytest.raises(FormatError, match="int"):
        load_torch_weights(model, 3)
