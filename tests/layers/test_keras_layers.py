"""Layers that subclass Keras's: the same results, quantization and LoRA."""

import keras
import numpy as np
import pytest

from keras_spm import layers
from tests.helpers import difference, random_array, randomize, to_numpy

OPTIONS = {
    "Dense": [
        {"units": 5},
        {"units": 5, "activation": "relu", "use_bias": False, "kernel_regularizer": "l2"},
    ],
    "Conv2D": [
        {},
        {"activation": "relu", "strides": 2, "use_bias": False, "kernel_regularizer": "l2"},
        {"strides": 2, "padding": "same"},
        {"dilation_rate": 2},
        {"groups": 2},
        {"strides": (1, 2)},
        {"data_format": "channels_first"},
        {"filters": 200},  # More than patches, as dense layers on PyTorch.
        {"filters": 50, "strides": 2},
        {"kernel_size": 2, "strides": 2},
    ],
    "DepthwiseConv2D": [
        {"padding": "valid"},
        {"padding": "valid", "activation": "relu", "strides": 2, "use_bias": False},
        {"strides": 2, "padding": "same"},
        {"padding": "valid", "dilation_rate": 2},
        {"padding": "valid", "depth_multiplier": 2},
    ],
}


def _make(module, name, options):
    if "Conv" in name:
        options = {"kernel_size": 3, "data_format": "channels_last", **options}
    if name == "Conv2D":
        options = {"filters": 4, **options}
    return getattr(module, name)(**options)


@pytest.mark.parametrize(
    ("name", "options"), [(name, each) for name, rows in OPTIONS.items() for each in rows]
)
def test_options_of_keras(name, options):
    ours, reference = (_make(module, name, options) for module in (layers, keras.layers))
    assert isinstance(ours, type(reference))
    maps = random_array(2, 8, 9, 6)
    for layer in (ours, reference):
        layer.build(maps.shape)
        randomize(layer)
    assert [v.path.split("/")[1:] for v in ours.weights] == [
        v.path.split("/")[1:] for v in reference.weights
    ]
    assert ours.compute_output_shape(maps.shape) == reference.compute_output_shape(maps.shape)
    assert difference(ours(maps), reference(maps)) <= 1e-5
    assert len(ours.losses) == len(reference.losses)


@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"dilation_rate": 2}])
@pytest.mark.parametrize("name", ["Conv2D", "DepthwiseConv2D"])
def test_integer_padding_pads_all_sides(name, options):
    ours = _make(layers, name, {**options, "padding": 2})
    reference = _make(keras.layers, name, options)
    maps = random_array(2, 8, 9, 6)
    padded = np.pad(maps, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for layer in (ours, reference):
        layer.build(padded.shape)
        randomize(layer)
    expected = reference(padded)
    assert ours.compute_output_shape(maps.shape) == tuple(expected.shape)
    assert difference(ours(maps), expected) <= 1e-5
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()


def test_invalid_padding():
    with pytest.raises(
        ValueError, match="`padding` must be an integer of at least 0. Received: padding=-1"
    ):
        layers.Conv2D(4, 3, padding=-1)
    with pytest.raises(ValueError, match="kernel_size=4"):
        layers.DepthwiseConv2D(4)


def _quantized_model():
    inputs = keras.Input((6, 8))
    hidden = layers.Dense(7, "relu", name="hidden")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(5, use_bias=False, name="logits")(hidden)))
    exact = to_numpy(model(random_array(3, 6, 8)))
    model.quantize("int8", filters="hidden|logits")
    return model, exact


def test_a_quantized_model_is_saved_and_loaded(tmp_path):
    model, exact = _quantized_model()
    inputs = random_array(3, 6, 8)
    outputs = model(inputs)
    assert {layer.quantization_mode for layer in model.layers[1:]} == {"int8"}
    assert 0 < difference(outputs, exact) <= 0.1 * np.abs(exact).max()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.quantization_mode for layer in loaded.layers[1:]} == {"int8"}
    assert difference(loaded(inputs), outputs) == 0


def test_subclasses_of_dense_are_not_quantized():
    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    layer = Doubled(5)
    layer.build((None, 4))
    with pytest.raises(NotImplementedError, match="Doubled"):
        layer.quantize("int8")


@pytest.mark.parametrize("name", ["Dense", "Conv2D"])
def test_lora(name):
    """At first nothing changes; then only the LoRA variables are trained."""
    inputs = keras.Input((6, 6, 8))
    layer = layers.Dense(5) if name == "Dense" else layers.Conv2D(5, 3, padding=1)
    model = randomize(keras.Model(inputs, layer(inputs)))
    maps = random_array(4, 6, 6, 8)
    before, bias = to_numpy(model(maps)), to_numpy(layer.bias)
    layer.enable_lora(2)
    layer.bias.trainable = False
    assert difference(model(maps), before) <= 1e-6
    lora = [layer.lora_kernel_a, layer.lora_kernel_b]
    assert [v.path for v in model.trainable_variables] == [v.path for v in lora]
    kernel = to_numpy(layer._kernel)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    model.fit(maps, np.zeros_like(before), verbose=0)
    assert difference(layer._kernel, kernel) == 0 and difference(layer.bias, bias) == 0
    assert difference(model(maps), before) > 1e-3
