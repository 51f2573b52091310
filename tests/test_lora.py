"""LoRA: against its closed form, what it trains, and its files."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_spm
from keras_spm import fuse
from keras_spm.layers.adaptation import adapted_layers, lora_layers
from keras_spm.optimizers import LayerwiseAdamW
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
RANK, ALPHA = 3, 6.0
LABELS = np.array([0, 1, 2])


def _classifier(**arguments):
    backbone = golden.two_stage_backbone("pvt_v2_spm", **arguments)
    return randomize(keras_spm.ImageClassifier(backbone, 7))


def _with_lora(model):
    """Enables LoRA with random matrices."""
    model.enable_lora(RANK, ALPHA)
    for number, dense in enumerate(lora_layers(model).values()):
        for matrix in (dense.lora_kernel_a, dense.lora_kernel_b):
            matrix.assign(0.1 * random_array(*matrix.shape, seed=number))
    return model


def _trained(model):
    return {variable.path for variable in model.trainable_variables}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("PVTv2SPM", ("query", "key_value", "fc1", "fc2")),
        pytest.param("PVTSPM", ("query", "key_value", "fc1", "fc2"), marks=ONLY_TORCH),
        pytest.param("Swin", ("qkv", "fc1", "fc2"), marks=ONLY_TORCH),
        *(
            pytest.param(name, ("query", "key_value", "fc1", "fc2"), marks=ONLY_TORCH)
            for name in contract.TASKS
        ),
    ],
)
def test_against_the_closed_form(name, layers):
    """W + A B alpha / rank, in the queries, keys, values and MLPs of every block; merged too."""
    model, batch, expected = contract.reference(contract.MODELS[name])
    adapted, changed = (randomize(type(model).from_config(model.get_config())) for _ in range(2))
    adapted.enable_lora(RANK, ALPHA)
    contract.check_equal(contract.evaluated(adapted, batch), expected)
    backbone = getattr(model, "backbone", model)
    blocks = sum(len(stage.blocks) for stage in backbone.stages)
    paths = lora_layers(adapted)
    assert len(paths) == blocks * len(layers)
    assert {path.rpartition("/")[2] for path in paths} == set(layers)
    kernels = {variable.path: variable for variable in changed.weights}
    for number, (path, dense) in enumerate(paths.items()):
        a, b = dense.lora_kernel_a, dense.lora_kernel_b
        assert a.shape[-1] == b.shape[0] == RANK
        for matrix in (a, b):
            matrix.assign(0.2 * random_array(*matrix.shape, seed=number))
        kernel = kernels[f"{path}/kernel"]
        kernel.assign(to_numpy(kernel) + to_numpy(a) @ to_numpy(b) * ALPHA / RANK)
    outputs = contract.evaluated(changed, batch)
    assert difference(outputs, expected) > 1e-3
    contract.check_equal(contract.evaluated(adapted, batch), outputs)
    adapted.merge_lora()
    contract.check_equal(contract.evaluated(adapted, batch), outputs)
    assert [v.path for v in adapted.weights] == [v.path for v in model.weights]
    assert _trained(adapted) == _trained(model)


def test_only_lora_and_the_head_are_trained(tmp_path):
    """Also after loading, from where the training continues."""
    model, batch = _with_lora(_classifier()), contract.images(*contract.USUAL)
    lora = {path for path in _trained(model) if "lora_kernel_" in path}
    assert _trained(model) == {"head/kernel", "head/bias", *lora}
    assert len(lora) == 2 * len(lora_layers(model))
    check_round_trips(model, batch, tmp_path)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert _trained(loaded) == _trained(model)
    loaded.fit(batch, LABELS, epochs=2, verbose=0)
    pairs = zip(model.weights, loaded.weights, strict=True)
    assert {v.path for v, other in pairs if difference(v, other) > 0} == _trained(model)
    loaded.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    check_equal(loaded, again, batch)
    assert int(again.optimizer.iterations) == 2


def test_freezing():
    model = _classifier()
    everything = _trained(model)
    model.enable_lora(RANK)
    lora = _trained(model)
    model.freeze(1)
    assert _trained(model) == {path for path in lora if not path.startswith("stage1/")}
    again = keras_spm.ImageClassifier.from_config(model.get_config())
    assert _trained(again) == _trained(model)
    model.freeze()
    assert _trained(model) == {"head/kernel", "head/bias"}
    model.freeze(0)
    assert _trained(model) == lora
    model.merge_lora()
    assert _trained(model) == everything


@ONLY_TORCH
def test_layerwise_learning_rates():
    """LoRA of earlier blocks has lower learning rates; a step of Adam shows them."""
    model = _with_lora(_classifier())
    optimizer = LayerwiseAdamW.from_backbone(model.backbone, 1e-3, 0.5, weight_decay=0.0)
    model.compile(optimizer)
    before = {variable.path: to_numpy(variable) for variable in model.trainable_variables}
    model.train_on_batch(contract.images(*contract.USUAL), LABELS)
    for distance, block in ((3, "stage1/block1"), (2, "stage1/block2"), (1, "stage2/block1")):
        path = f"{block}/mlp/fc2/lora_kernel_b"
        step = difference(_variable(model, path), before[path])
        assert step == pytest.approx(1e-3 * 0.5**distance, rel=0.01)


def _variable(model, path):
    return next(variable for variable in model.weights if variable.path == path)


# === Files ===


def test_the_file_of_a_task(tmp_path):
    """A file with LoRA and the head makes the same model of the original one."""
    path, batch = tmp_path / "lora.safetensors", contract.images(*contract.USUAL)
    model, other = _with_lora(_classifier()), _classifier()
    _variable(model, "head/kernel").assign(random_array(*model.get_layer("head").kernel.shape))
    model.save_lora_weights(path)
    assert set(load_file(path)) == _trained(model)
    other.load_lora_weights(path)
    check_equal(model, other, batch)
    assert _trained(other) == _trained(model)
    assert adapted_layers(other) == adapted_layers(model)


@ONLY_TORCH
def test_the_file_of_a_backbone(tmp_path):
    path = tmp_path / "lora.safetensors"
    model, backbone = _with_lora(_classifier()), _classifier().backbone
    model.backbone.save_lora_weights(path)
    backbone.enable_lora(RANK, ALPHA)
    backbone.load_lora_weights(path)
    check_equal(model.backbone, backbone, contract.images(*contract.USUAL) / 255)
    assert path.stat().st_size < 4 * sum(v.size for v in map(to_numpy, backbone.weights)) / 2
    other = golden.two_stage_backbone("pvt_v2_spm")
    with pytest.warns(UserWarning, match="trained on a backbone with other weights"):
        other.load_lora_weights(path)


def _rename(arrays, metadata):
    arrays["stage1/block9/mlp/fc1/lora_kernel_a"] = arrays.pop(next(iter(arrays)))


def _cut(arrays, metadata):
    name = next(name for name in arrays if name.endswith("lora_kernel_b"))
    arrays[name] = arrays[name][:, 1:].copy()


def _not_finite(arrays, metadata):
    arrays["head/bias"][0] = np.nan


def _other_layer(arrays, metadata):
    groups = json.loads(metadata["lora_layers"])
    groups[0]["layers"][0] = "stage1/block9/mlp/fc1"
    metadata["lora_layers"] = json.dumps(groups)


@ONLY_TORCH
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_rename, "missing"),
        (_cut, "shape"),
        (_not_finite, "NaN or infinity"),
        (_other_layer, "stage1/block"),
        (lambda arrays, metadata: metadata.clear(), "not a file of `save_lora_weights`"),
    ],
)
def test_a_file_that_does_not_fit(damage, message, tmp_path):
    """Nothing is changed."""
    path, model = tmp_path / "lora.safetensors", _classifier()
    other = _with_lora(_classifier())
    other.save_lora_weights(path)
    arrays, metadata = load_file(path), keras_spm.weights.formats.read_metadata(path)
    damage(arrays, metadata)
    save_file(arrays, path, metadata)
    values = [to_numpy(variable) for variable in other.weights]
    for target in model, other:
        with pytest.raises(keras_spm.weights.WeightsError, match=message):
            target.load_lora_weights(path)
    assert not lora_layers(model)
    for variable, value in zip(other.weights, values, strict=True):
        assert difference(variable, value) == 0


@ONLY_TORCH
def test_no_partial_file(tmp_path, monkeypatch):
    path, model = tmp_path / "lora.safetensors", _with_lora(_classifier())
    path.write_text("an older file")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        model.save_lora_weights(path)
    assert path.read_text() == "an older file" and len(list(tmp_path.iterdir())) == 1


# === Combinations ===


def test_lora_on_quantized_kernels(tmp_path):
    model, batch = _classifier(), contract.images(*contract.USUAL)
    model.quantize("int8")
    outputs = contract.evaluated(model, batch)
    model.enable_lora(RANK)
    contract.check_equal(contract.evaluated(model, batch), outputs)
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(batch, LABELS, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_equal(model, loaded, batch)
    outputs = contract.evaluated(model, batch)
    model.merge_lora()
    merged = contract.evaluated(model, batch)
    assert difference(merged, outputs) <= 0.05 * np.abs(outputs).max()


@ONLY_TORCH
def test_presets_and_fusion(tmp_path):
    model, batch = _with_lora(_classifier()), contract.images(*contract.USUAL)
    model.save_to_preset(tmp_path / "preset")
    loaded = keras_spm.ImageClassifier.from_preset(tmp_path / "preset")
    check_equal(model, loaded, batch)
    assert _trained(loaded) == _trained(model)
    outputs = contract.evaluated(model, batch)
    contract.check_equal(contract.evaluated(fuse(model), batch), outputs)
    model.merge_lora()
    fused = fuse(model)
    fused.quantize("int8")
    assert difference(contract.evaluated(fused, batch), outputs) <= 0.05 * np.abs(outputs).max()


@ONLY_TORCH
def test_half_precision():
    model = _with_lora(_classifier(dtype="mixed_bfloat16"))
    batch = contract.images(*contract.USUAL)
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    expected = contract.evaluated(_with_lora(_classifier()), batch)
    outputs = contract.evaluated(model, batch)
    assert difference(outputs, expected) <= 0.1 * np.abs(expected).max()
    model.merge_lora()
    assert difference(contract.evaluated(model, batch), outputs) <= 0.1 * np.abs(expected).max()


@ONLY_TORCH
def test_errors(tmp_path):
    model = _classifier()
    for arguments, message in (
        ({"rank": 0}, "`rank` must be an integer of at least 1. Received: rank=0"),
        ({"rank": 2, "lora_alpha": 0}, "`lora_alpha` must be a finite number, above 0"),
        ({"rank": 2, "filters": "head"}, "`filters` must be for layers such as"),
    ):
        assert message in error_message(model.enable_lora, **arguments)
    assert "has no LoRA" in error_message(model.merge_lora)
    assert "has no LoRA" in error_message(model.save_lora_weights, path=tmp_path / "new")
    model.enable_lora(2)
    assert "has LoRA already" in error_message(model.enable_lora, rank=2)
    assert "call `merge_lora` before `quantize`" in error_message(model.quantize, mode="int8")
    with pytest.raises(ValueError, match="has quantized layers or LoRA"):
        keras_spm.to_torch_state_dict(model)
    _with_lora(_classifier()).save_lora_weights(tmp_path / "lora.safetensors")
    with pytest.raises(keras_spm.weights.WeightsError, match="rank 3, alpha 6 in the file, rank 2"):
        model.load_lora_weights(tmp_path / "lora.safetensors")


@ONLY_TORCH
def test_layers_without_loaded_weights_are_not_frozen(tmp_path):
    """Stepwise Patch Merging that is new in a pretrained network must be trained."""
    golden.two_stage_backbone("pvt_v2").save_to_preset(tmp_path / "preset")
    with pytest.warns(UserWarning, match="randomly initialized"):
        backbone = keras_spm.PVTv2SPM.from_preset(tmp_path / "preset")
    assert "stage2/merging/" in error_message(backbone.enable_lora, rank=2)
