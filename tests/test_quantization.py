"""Quantized models: against NumPy, saved and loaded, fused, and their errors."""

import json

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import fuse, layers
from keras_spm.layers.adaptation import dense_sublayers, quantizable_sublayers
from tests import contract, golden
from tests.helpers import (
    check_equal,
    check_round_trips,
    difference,
    error_message,
    random_array,
    randomize,
    to_numpy,
)

ONLY_TORCH = pytest.mark.only("torch")
REDUCTION = "stage1/block1/attention/reduction"
BACKBONES = (
    "PVTv2SPM",
    *(pytest.param(name, marks=ONLY_TORCH) for name in ("PVTSPM", "PVTv2-linear", "SwinSPM")),
)
TASKS = [pytest.param(name, marks=ONLY_TORCH) for name in contract.TASKS]


def _has_float_kernel(layer):
    variables = layer._trainable_variables + layer._non_trainable_variables
    return any(v.name.endswith("kernel") and v.dtype == "float32" for v in variables)


def _copy(model):
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _quantized(kernel, axis=0):
    """(integers, scale) of Keras's symmetric quantization to 8 bits."""
    scale = np.float32(127) / (np.abs(kernel).max(axis, keepdims=True) + np.float32(1e-7))
    return np.round(kernel * scale), scale


def test_a_layer_against_numpy():
    layer = layers.Dense(12, "relu")
    layer.build((None, 5, 7, 24))
    kernel, bias = random_array(24, 12), random_array(12, seed=1)
    layer.set_weights([kernel, bias])
    inputs = random_array(3, 5, 7, 24, seed=2)
    layer.quantize("int8")
    (rows, row_scale), (columns, column_scale) = _quantized(inputs, -1), _quantized(kernel)
    products = np.einsum("bhwi,io->bhwo", rows.astype("int64"), columns.astype("int64"))
    expected = np.maximum(products / (row_scale * column_scale) + bias, 0)
    assert {each.dtype for each in layer.weights} == {"int8", "float32"}
    assert difference(layer(inputs), expected) <= 1e-5


@pytest.mark.parametrize("name", [*BACKBONES, *TASKS])
def test_every_layer_is_quantized(name, tmp_path):
    """With float inputs, the outputs are those of the rounded kernels; also after loading."""
    model, batch, expected = contract.reference(contract.MODELS[name])
    quantized, rounded = _copy(model), _copy(model)
    kernels_alone = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    quantized.quantize("int8", kernels_alone)
    layers_of_quantized = quantizable_sublayers(quantized)
    for path, layer in quantizable_sublayers(rounded).items():
        kernel = getattr(layer, getattr(layer, "kernel_attribute", "_kernel"))
        integers, scale = _quantized(to_numpy(kernel), tuple(range(len(kernel.shape) - 1)))
        kernel.assign(integers / scale)
        assert layers_of_quantized[path].quantization_mode == "int8"
    left = {type(each).__name__ for each in quantized._flatten_layers() if _has_float_kernel(each)}
    assert left <= {"DepthwiseConv2D", "MultiScaleAggregation", "Upsampling"}
    outputs = contract.evaluated(quantized, batch)
    contract.check_equal(outputs, contract.evaluated(rounded, batch))
    assert difference(outputs, expected) > 1e-4
    quantized.save(tmp_path / "model.keras")
    check_equal(quantized, keras.saving.load_model(tmp_path / "model.keras"), batch)


def _classifier(**arguments):
    backbone = golden.two_stage_backbone("pvt_v2_spm", **arguments)
    return randomize(keras_spm.ImageClassifier(backbone, 7, class_names=list("abcdefg")))


@pytest.mark.parametrize(
    "mode", ["int8", *(pytest.param(mode, marks=ONLY_TORCH) for mode in ("int4", "float8"))]
)
def test_round_trips(mode, tmp_path):
    model, batch = _classifier(), contract.images(*contract.USUAL)
    expected = contract.evaluated(model, batch)
    model.quantize(mode)
    assert {each.quantization_mode for each in dense_sublayers(model).values()} == {mode}
    outputs = contract.evaluated(model, batch)
    bound = {"int8": 0.05, "int4": 0.3, "float8": 0.2}[mode] * np.abs(expected).max()
    assert 0 < difference(outputs, expected) <= bound
    check_round_trips(model, batch, tmp_path)
    model.save_to_preset(tmp_path / "preset")
    check_equal(model, keras_spm.ImageClassifier.from_preset(tmp_path / "preset"), batch)


@ONLY_TORCH
def test_presets(tmp_path):
    """A bare backbone, other classes, another merging and random weights from a quantized task."""
    model, batch = _classifier(), contract.images(*contract.USUAL) / 255
    model.quantize("int8")
    folder = tmp_path / "preset"
    model.save_to_preset(folder)
    backbone = keras_spm.PVTv2SPM.from_preset(folder)
    check_equal(model.backbone, backbone, batch)
    other = keras_spm.ImageClassifier.from_preset(folder, num_classes=3)
    assert other.load_report.missing_keys == ("head/kernel", "head/bias")
    assert other.get_layer("head").quantization_mode is None
    check_equal(other.backbone, backbone, batch)
    with pytest.warns(UserWarning, match="randomly initialized"):
        other = keras_spm.PVTv2SPM.from_preset(folder, merging="default")
    assert other.get_layer("stage2").blocks[0].mlp.fc1.quantization_mode == "int8"
    assert other.get_layer("stage2").merging.quantization_mode is None
    other = keras_spm.ImageClassifier.from_preset(folder, load_weights=False)
    assert not any(each.quantization_mode for each in dense_sublayers(other).values())


@ONLY_TORCH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["stage1/block9/mlp/fc1"]}, "must name dense layers"),
        ({"quantization": "float8", "layers": [REDUCTION]}, "int8 alone for"),
        ({"lora_rank": 4, "layers": [REDUCTION]}, "int8 alone for"),
        ({"quantization": "int2"}, "`quantization` must be one of"),
        ({"quantization_config": {}}, "cannot have"),
        ({"lora_rank": 4}, "missing"),
        ({"lora_rank": -1}, "`rank` must be an integer of at least 1"),
    ],
)
def test_a_damaged_preset(change, message, tmp_path):
    model = _classifier()
    model.quantize("int8")
    model.save_to_preset(tmp_path / "preset")
    path = tmp_path / "preset" / "config.json"
    config = json.loads(path.read_text())
    dense = [path for path in config["adapted_layers"][0]["layers"] if path.endswith("fc1")]
    config["adapted_layers"][0] |= {"layers": dense} | change
    path.write_text(json.dumps(config))
    with pytest.raises(keras_spm.weights.WeightsError, match=message):
        keras_spm.ImageClassifier.from_preset(tmp_path / "preset")


def test_fused_models(tmp_path):
    """Quantizing and fusing can be done in any order."""
    model, batch = _classifier(), contract.images(*contract.USUAL)
    fused = fuse(model)
    fused.quantize("int8")
    model.quantize("int8")
    outputs = contract.evaluated(fuse(model), batch)
    # Folding changes no kernel that is quantized.
    contract.check_equal(contract.evaluated(fused, batch), outputs, 1e-3)
    fused.save(tmp_path / "model.keras")
    check_equal(fused, keras.saving.load_model(tmp_path / "model.keras"), batch)


@ONLY_TORCH
def test_training_continues(tmp_path):
    """The optimizer is a new one, for the variables that are left; both are saved."""
    model, batch = _classifier(), contract.images(*contract.USUAL)
    labels = np.arange(len(batch))
    model.optimizer.build(model.trainable_variables)  # As after training.
    model.quantize("int8", filters="^(?!head)")
    kernel = model.backbone.get_layer("stage1").blocks[0].mlp.fc1.kernel
    before = to_numpy(kernel)
    history = model.fit(batch, labels, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    assert difference(kernel, before) == 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 2
    check_equal(model, loaded, batch)


@ONLY_TORCH
def test_filters():
    def modes(filters, mode="int8"):
        model.quantize(mode, filters=filters)
        return {path for path, each in dense.items() if each.quantization_mode == mode}

    model = _classifier()
    dense = dense_sublayers(model)
    assert modes("^head$") == {"head"}
    assert modes(["/query$", "/key_value$"], "int4") == {
        path for path in dense if path.endswith(("/query", "/key_value"))
    }
    merging = model.backbone.get_layer("stage2").merging
    projections = [id(each) for each in dense_sublayers(merging).values()]
    assert modes(lambda layer: id(layer) in projections, "float8") == {
        path for path in dense if "/merging/" in path
    }
    # All that are left.
    rest = {path for path in dense if "/mlp/" in path or path.endswith("attention/projection")}
    assert modes(None) == {"head", *rest}


@ONLY_TORCH
def test_errors(tmp_path):
    model = _classifier()
    for arguments, message in (
        ({"mode": "int2"}, "int2"),
        ({"mode": "int8", "filters": "nothing"}, "`filters` must be for layers such as"),
        ({"mode": "int8", "filters": "("}, "`filters` must be a regular expression"),
        ({"mode": "int8", "filters": 3}, "`filters` must be a regular expression"),
    ):
        assert message in error_message(model.quantize, **arguments)
    config = keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)
    model.quantize("int8", config)
    assert "int8" in error_message(model.quantize, mode="int8")
    assert "default configuration" in error_message(model.save_to_preset, folder=tmp_path / "new")
    assert not list(tmp_path.iterdir())
    for function in keras_spm.to_torch_state_dict, keras_spm.load_torch_weights:
        with pytest.raises(ValueError, match="has quantized layers or LoRA"):
            function(model, "official")


@ONLY_TORCH
def test_class_logits_of_a_quantized_head():
    backbone = golden.two_stage_backbone("pvt_v2_spm")
    model = randomize(keras_spm.ImageClassifier(backbone, 7, activation="softmax"))
    model.quantize("int8")
    batch = contract.images(*contract.USUAL)
    logits = keras.Model(model.input, model.class_logits())(batch)
    assert difference(keras.ops.softmax(logits), model(batch)) <= 1e-6


@ONLY_TORCH
def test_layers_alone(tmp_path):
    """Their dtype policies are enough for the file of a user's own model."""
    inputs = keras.Input((8, 8, 8))
    own = [layers.Conv2D(16, 3, padding=1, use_bias=False), layers.GuidedLocalEnhancement(4)]
    model = keras.Model(inputs, own[1](own[0](inputs)))
    batch = random_array(2, 8, 8, 8)
    expected = to_numpy(model(batch))
    for layer in own:
        layer.quantize("int8")
        assert layer.dtype_policy.name == "int8_from_float32"
    assert 0 < difference(model(batch), expected) <= 0.05 * np.abs(expected).max()
    model.save(tmp_path / "model.keras")
    check_equal(model, keras.saving.load_model(tmp_path / "model.keras"), batch)
    conv = layers.Conv2D(8, 1)
    conv.build((None, 8, 8, 8))
    with pytest.raises(NotImplementedError, match="no quantization to 'float8'"):
        conv.quantize("float8")
