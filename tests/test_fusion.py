"""Fused models, beyond the contract of all models."""

import functools

import keras
import numpy as np
import pytest

from keras_spm import (
    ImageClassifier,
    SemanticSegmenter,
    fuse,
    load_torch_weights,
    to_torch_state_dict,
)
from keras_spm.heads import SemanticFPN
from keras_spm.layers import StepwisePatchMerging
from tests import contract, golden
from tests.helpers import difference, random_array, randomize


@pytest.mark.parametrize("name", golden.LAYERS)
def test_fused_layer_in_a_users_model(name):
    arrays, _ = golden.read(name)
    maps = keras.Input((None, None, arrays["input"].shape[-1]))
    layer = StepwisePatchMerging(golden.LAYERS[name])
    outputs = keras.Sequential([layer], name="merging")(maps)
    model = keras.Model(maps, keras.layers.Lambda(lambda maps: maps * 2)(outputs))
    load_torch_weights(layer, golden.state(name))
    fused = fuse(model)
    assert len(fused.weights) == len(model.weights) - 2 * 4 - 4 + 2
    assert difference(fused.predict(arrays["input"], verbose=0) / 2, arrays["output"]) <= 1e-5


def test_arguments_beyond_the_defaults():
    maps = keras.Input((5, 8, 6))
    layer = StepwisePatchMerging(
        24, kernel_sizes=(5, 3), expansion=3, num_heads=4, guide_kernel_size=3
    )
    model = randomize(keras.Model(maps, layer(maps)))
    batch = random_array(2, 5, 8, 6)
    expected, outputs = (each.predict(batch, verbose=0) for each in (model, fuse(model)))
    assert difference(outputs, expected) <= 1e-5


@pytest.fixture(scope="module")
def classifiers():
    """Returns a classifier and its fused form, compiled once for all tests."""
    names = ["heron", "crane", "ibis"]
    model = randomize(ImageClassifier(golden.short_backbone("pvt_v2_spm"), 3, class_names=names))
    model.optimizer.build(model.trainable_variables)  # As after training.
    return model, fuse(model)


def _check_refusal(fused, labels):
    batch = contract.images(*contract.USUAL)
    assert np.isfinite(fused.evaluate(batch, labels, verbose=0)).all()
    for train in fused.train_on_batch, functools.partial(fused.fit, verbose=0):
        with pytest.raises(ValueError, match="fused .* cannot be trained: .* Train the original"):
            train(batch, labels)


@pytest.mark.only("torch")
def test_fused_classifier_refuses_training(classifiers):
    _check_refusal(classifiers[1], np.zeros(3, "int32"))


@pytest.mark.only("torch")
def test_fused_segmenter_refuses_training():
    fused = fuse(golden.segmenter())
    _check_refusal(fused, np.zeros((3, 64, 64), "int32"))


@pytest.mark.only("torch")
def test_class_names_are_kept(classifiers):
    batch = contract.images(*contract.USUAL)
    names = [[[name for name, _ in row] for row in each.classify(batch)] for each in classifiers]
    assert names[0] == names[1]


@pytest.mark.only("torch")
def test_fused_model_in_a_preset_folder(tmp_path):
    backbone = golden.backbone("pvt_v2", gradient_checkpointing=True)
    decoder = SemanticFPN(pyramid_channels=8, channels=8)
    fused = fuse(randomize(SemanticSegmenter(backbone, 3, decoder)))
    fused.save_to_preset(tmp_path / "segmenter")
    loaded = SemanticSegmenter.from_preset(tmp_path / "segmenter")
    assert loaded.decoder.fused
    assert loaded.backbone.gradient_checkpointing
    for weight, original in zip(loaded.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, original)


@pytest.mark.only("torch")
def test_half_precision_is_kept():
    model = randomize(golden.backbone("pvt_v2_spm", dtype="mixed_bfloat16"))
    fused = fuse(model)
    assert fused.dtype_policy.name == "mixed_bfloat16"
    assert {variable.dtype for variable in fused.weights} == {"float32"}
    batch = contract.images(*contract.USUAL) / 255
    expected, outputs = (
        contract.evaluated(each, batch).astype("float32") for each in (model, fused)
    )
    # Compared with the error of half precision itself.
    exact = golden.backbone("pvt_v2_spm")
    exact.set_weights(model.get_weights())
    exact = contract.evaluated(exact, batch)
    assert difference(outputs, exact) <= 1.5 * difference(expected, exact)


@pytest.mark.only("torch")
def test_fused_model_has_presets_but_no_torch_form(classifiers, tmp_path):
    _, fused = classifiers
    fused.save_to_preset(tmp_path / "fused")
    again = ImageClassifier.from_preset(tmp_path / "fused")
    batch = contract.images(*contract.USUAL)
    assert difference(again.predict(batch, verbose=0), fused.predict(batch, verbose=0)) == 0
    for convert in (to_torch_state_dict, lambda model: load_torch_weights(model, {})):
        with pytest.raises(ValueError, match="is fused, .* Convert the original"):
            convert(fused)


@pytest.mark.only("torch")
def test_model_without_foldable_layers():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="plain")
    with pytest.raises(ValueError, match="Received: Sequential 'plain' without any"):
        fuse(model)


@pytest.mark.only("tensorflow")
def test_export_of_a_fused_model(tmp_path):
    import tensorflow as tf

    maps = keras.Input((None, None, 16))
    fused = fuse(randomize(keras.Model(maps, StepwisePatchMerging(32)(maps))))
    batch = random_array(2, 7, 8, 16)
    fused.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    assert difference(exported.serve(batch), fused.predict(batch, verbose=0)) <= 1e-5
