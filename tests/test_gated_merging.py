"""The default merging with Stepwise Patch Merging behind a gate."""

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm.callbacks import FadeOutDefaultMerging
from keras_spm.optimizers import AdamW, LayerwiseAdamW
from tests.helpers import difference, error_message, randomize, tiny_backbone, to_numpy

on_torch = pytest.mark.only("torch")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
LABELS = np.arange(8) % 3


def backbone(**arguments):
    """Two stages, because each costs seconds of compilation."""
    ones = dict.fromkeys(("depths", "num_heads", "mlp_ratios", "sr_ratios"), (1, 1))
    return keras_spm.PVTv2(embed_dims=(8, 16), **ones, **arguments)


def gated_classifier():
    return keras_spm.ImageClassifier(backbone(merging="default+spm"), 3)


def of(model, name):
    return [variable for variable in model.weights if variable.path.endswith(f"merging/{name}")]


def check_first_step(optimizer, model, rates):
    """The first step of Adam is the learning rate, in the direction of the gradient."""
    variables = model.trainable_variables
    before = [np.array(to_numpy(variable)) for variable in variables]
    optimizer = type(optimizer).from_config(optimizer.get_config())
    optimizer.apply([keras.ops.ones(each.shape) for each in variables], variables)
    for variable, value in zip(variables, before, strict=True):
        rate = next((rates[end] for end in rates if variable.path.endswith(end)), None)
        if rate is None:
            continue
        assert difference(value - to_numpy(variable), rate) <= 1e-2 * rate, variable.path


def test_gates_have_their_own_learning_rate():
    model = gated_classifier()
    check_first_step(AdamW(1e-3, weight_decay=0.0), model, {"merging/gate": 30e-3, "": 1e-3})


def test_gates_have_no_layer_wise_decay():
    model = gated_classifier()
    optimizer = LayerwiseAdamW.from_backbone(
        model.backbone, 1e-2, 0.5, weight_decay=0.0, gate_multiplier=5.0
    )
    check_first_step(optimizer, model, {"merging/gate": 5e-2, "head/kernel": 1e-2})


@on_torch
def test_no_weight_decay_on_gates():
    model = gated_classifier()
    for optimizer in (
        AdamW(1e-3, weight_decay=0.9),
        LayerwiseAdamW.from_backbone(model.backbone, 1e-3, 0.5, weight_decay=0.9),
    ):
        optimizer.build(model.trainable_variables)
        gate = of(model, "gate")[0]
        gate.assign(np.ones(gate.shape))
        gradients = [keras.ops.zeros_like(each) for each in model.trainable_variables]
        optimizer.apply(gradients)
        assert difference(gate, np.ones(gate.shape)) == 0


@on_torch
def test_gate_multiplier_is_saved(tmp_path):
    model = gated_classifier()
    model.compile(AdamW(1e-4, gate_multiplier=7.0))
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").optimizer.gate_multiplier == 7
    message = error_message(AdamW, gate_multiplier=-1)
    assert "`gate_multiplier` must be a finite number, at least 0. Received" in message


def test_fading_out_and_removing_the_default_merging(tmp_path):
    model = gated_classifier()
    shares = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: shares.append(
            float(to_numpy(of(model, "default_share")[0]))
        )
    )
    fading = FadeOutDefaultMerging(epochs=4, start=1)
    model.fit(IMAGES, LABELS, batch_size=8, epochs=6, callbacks=[fading, record], verbose=0)
    np.testing.assert_allclose(shares, [1, 1, 2 / 3, 1 / 3, 0, 0], rtol=1e-6)
    for variable in of(model, "gate"):
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    removed = keras_spm.spm_only(model)
    assert removed.backbone.merging == "spm"
    expected = model.predict_on_batch(IMAGES)
    assert difference(removed.predict_on_batch(IMAGES), expected) <= 1e-5
    removed.save_to_preset(tmp_path / "removed")
    again = keras_spm.ImageClassifier.from_preset(tmp_path / "removed")
    for left, right in zip(again.weights, removed.weights, strict=True):
        assert difference(left, right) == 0


@on_torch
def test_a_share_of_the_default_merging_is_not_removed():
    model = randomize(gated_classifier())
    message = error_message(keras_spm.spm_only, model=model)
    assert message.startswith("`model` still uses its default mergings.")
    message = error_message(keras_spm.spm_only, model=tiny_backbone(merging="spm"))
    assert '`model` must be a backbone or task with merging="default+spm"' in message


@on_torch
def test_fading_needs_gates_and_a_range():
    assert "`epochs` must be an integer" in error_message(FadeOutDefaultMerging, epochs=0)
    assert "`start` must be an integer" in error_message(FadeOutDefaultMerging, epochs=3, start=3)
    model = keras_spm.ImageClassifier(tiny_backbone(), 3)
    message = error_message(
        model.fit, x=IMAGES, y=LABELS, callbacks=[FadeOutDefaultMerging(2)], verbose=0
    )
    assert '`FadeOutDefaultMerging` needs a model with `merging="default+spm"`' in message


@on_torch
def test_macs_and_attention_of_gated_mergings():
    model = gated_classifier()
    shape = (1, 32, 32, 3)
    parts = [backbone(merging=kind) for kind in ("default", "spm")]
    merging = keras_spm.layers.macs(parts[0].stages[1].merging, (1, 8, 8, 8))
    shared = parts[0].macs(shape) - merging
    assert model.backbone.macs(shape) == sum(each.macs(shape) for each in parts) - shared
    weights = keras_spm.visualize.attention_map(model, IMAGES[0], stage=2)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
