"""Optimizers of the recipes, against AdamW in NumPy."""

import re

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import layers
from keras_spm.optimizers import AdamW, LayerwiseAdamW, WarmupCosine
from tests import golden
from tests.helpers import difference, randomize, to_numpy


def test_no_weight_decay_on_norms_biases_and_class_tokens():
    layer = layers.ClassTokenStage(
        [layers.TransformerBlock(layers.WindowAttention(2, 2), layers.MLP(8))],
        layers.StepwisePatchMerging(8),
        position_embedding=layers.PositionEmbedding((2, 2), name="position_embedding"),
    )
    layer.build((1, 4, 4, 4))
    randomize(layer)
    variables = layer.trainable_variables
    before = {variable.path: to_numpy(variable) for variable in variables}
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
    # As in a saved model.
    optimizer = AdamW.from_config(optimizer.get_config())
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
    decayed = ("kernel", "position_embedding/embedding", "class_position")
    assert sum(path.endswith(decayed) for path in before) == 8 + 4 + 2
    assert sum(path.endswith(("bias_table", "class_token")) for path in before) == 2
    for variable in variables:
        shrink = 1 - 0.1 * 0.5 if variable.path.endswith(decayed) else 1
        assert difference(variable, before[variable.path] * shrink) <= 1e-7, variable.path


class _Reference:
    """AdamW of one array in double precision, after Keras's documentation of Adam."""

    def __init__(self, value, decay):
        self.value = value.astype("float64")
        self.decay = decay
        self.first = self.second = 0.0
        self.updates = 0

    def update(self, gradient, rate):
        self.updates += 1
        self.value = self.value * (1 - rate * self.decay)
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        corrected = rate * np.sqrt(1 - 0.999**self.updates) / (1 - 0.9**self.updates)
        self.value = self.value - corrected * self.first / (np.sqrt(self.second) + 1e-7)


@pytest.mark.only("torch")
def test_learning_rates_decrease_from_the_head_to_the_stem():
    backbone = keras_spm.PVTv2SPM(
        **{"embed_dims": (8, 16, 24), "depths": (1, 2, 1), "num_heads": (1, 1, 1)},
        **{"mlp_ratios": (2, 2, 2), "sr_ratios": (1, 1, 1)},
    )
    model = keras_spm.ImageClassifier(backbone, 3)
    variables = model.trainable_variables
    steps = 8
    rates = WarmupCosine(1e-2, steps, 4, 1e-3)
    optimizer = LayerwiseAdamW.from_backbone(backbone, rates, 0.7, weight_decay=0.5)
    optimizer = LayerwiseAdamW.from_config(optimizer.get_config())
    # The stem, 1 + 2 + 1 blocks, the head.
    exponents = {
        "stem/": 5,
        "stage1/": 4,
        "stage2/merging/": 4,
        "stage2/block1/": 3,
        "stage2/block2/": 2,
        "stage2/norm/": 2,
        "stage3/merging/": 2,
        "stage3/": 1,
        "head/": 0,
    }
    scales, references = [], []
    for variable in variables:
        prefix = next(each for each in exponents if variable.path.startswith(each))
        scales.append(0.7 ** exponents[prefix])
        excluded = re.search("(bias|gamma|beta)$", variable.path)
        references.append(_Reference(to_numpy(variable), 0.0 if excluded else 0.5))
    generator = np.random.default_rng(0)
    for step in range(steps):
        gradients = [generator.normal(size=variable.shape) for variable in variables]
        optimizer.apply(
            [keras.ops.convert_to_tensor(each, "float32") for each in gradients], variables
        )
        warmup, cosine = 1e-3 + (1e-2 - 1e-3) * step / 4, (1 + np.cos(np.pi * step / steps)) / 2
        rate = warmup if step < 4 else 1e-2 * cosine
        for reference, gradient, scale in zip(references, gradients, scales, strict=True):
            reference.update(gradient, rate * scale)
        for variable, reference in zip(variables, references, strict=True):
            assert difference(variable, reference.value) <= 2e-6, variable.path


def test_groups_of_class_tokens_and_final_norms():
    backbone = keras_spm.PVT(
        **{"embed_dims": (8, 16, 24, 32), "depths": (2, 2, 2, 2), "num_heads": (1, 1, 1, 1)},
        **{"mlp_ratios": (2, 2, 2, 2), "sr_ratios": (1, 1, 1, 1), "pretrain_image_size": (32, 32)},
    )
    model = keras_spm.ImageClassifier(backbone, 3)
    optimizer = LayerwiseAdamW.from_backbone(backbone, 1e-3)
    groups = {
        "stem/projection/kernel": 0,
        "stage1/position_embedding/embedding": 0,
        "stage4/class_token": 6,
        "stage4/block2/mlp/fc1/kernel": 8,
    }
    for path, group in groups.items():
        assert path in optimizer.layer_groups[group]
    grouped = [path for paths in optimizer.layer_groups for path in paths]
    paths = [variable.path for variable in model.trainable_variables]
    assert len(grouped) == len(set(grouped))
    assert set(paths) - set(grouped) == {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}


@pytest.mark.only("torch")
def test_mergings_without_loaded_weights_have_the_rate_of_the_head(tmp_path):
    """Weights of a baseline in a backbone with new Stepwise Patch Merging layers."""
    golden.short_backbone("pvt_v2").save_to_preset(tmp_path / "pvt_v2")
    with pytest.warns(UserWarning, match="mergings of .* are randomly initialized"):
        backbone = keras_spm.PVTv2SPM.from_preset(tmp_path / "pvt_v2")
    variables = keras_spm.ImageClassifier(backbone, 3).trainable_variables
    optimizer = LayerwiseAdamW.from_backbone(backbone, 1e-2, 0.5, weight_decay=0.0)
    before = [np.array(to_numpy(variable)) for variable in variables]
    optimizer.apply([keras.ops.ones(variable.shape) for variable in variables], variables)
    # The first step of Adam is the learning rate. The head is after a block in each stage.
    blocks = {f"stage{number}/": 0.5 ** (5 - number) for number in (1, 2, 3, 4)}
    checked = set()
    for variable, value in zip(variables, before, strict=True):
        layer, _, rest = variable.path.partition("/")
        is_new = layer == "head" or (layer != "stage1" and rest.startswith("merging/"))
        scale = 1 if is_new else {"stem/": 0.5**5, **blocks}[f"{layer}/"]
        assert difference(value - to_numpy(variable), 1e-2 * scale) <= 1e-6, variable.path
        checked.add((is_new, layer))
    assert len(checked) == 5 + 4
    # All weights are loaded: all layers have the rates of their depth.
    keras_spm.load_torch_weights(backbone, keras_spm.to_torch_state_dict(backbone))
    groups = LayerwiseAdamW.from_backbone(backbone, 1e-2).layer_groups
    assert any("/merging/" in path for paths in groups for path in paths)


@pytest.mark.only("torch")
def test_layer_decay_survives_saving(tmp_path):
    backbone = keras_spm.PVTv2.from_preset("mini", load_weights=False)
    model = keras_spm.ImageClassifier(backbone, 3)
    model.compile(LayerwiseAdamW.from_backbone(backbone, 1e-3, 0.5, weight_decay=0.25))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    model.fit(images, np.arange(4) % 3, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(images, np.arange(4) % 3, batch_size=4, verbose=0)
    for left, right in zip(model.weights, loaded.weights, strict=True):
        assert difference(left, right) <= 1e-6, left.path


def test_invalid_layer_decay():
    with pytest.raises(ValueError, match="layer_decay=0"):
        LayerwiseAdamW(1e-3, 0, [["stem/kernel"]])
    dense = keras.layers.Dense(2)
    dense.build((1, 2))
    with pytest.raises(ValueError, match="must contain variables of the model"):
        LayerwiseAdamW(1e-3, 0.5, [["stem/kernel"]]).build(dense.trainable_variables)


def test_accumulation_clipping_and_averages_step_by_step():
    """Three batches per update. The average is over updates, like `ema_decay` of a recipe."""
    steps, momentum = 3, 0.8
    dense = keras.layers.Dense(3, bias_initializer="ones")
    dense.build((1, 4))
    variables = dense.trainable_variables
    optimizer = AdamW(
        0.02,
        weight_decay=0.5,
        global_clipnorm=1.0,
        gradient_accumulation_steps=steps,
        use_ema=True,
        ema_momentum=momentum ** (1 / steps),
    )
    references = [
        _Reference(to_numpy(each), decay) for each, decay in zip(variables, (0.5, 0), strict=True)
    ]
    generator = np.random.default_rng(0)
    averages, clipped = None, 0
    for _ in range(10):
        gradients = [
            [generator.normal(size=each.shape) for each in variables] for _ in range(steps)
        ]
        for each in gradients:
            optimizer.apply(
                [keras.ops.convert_to_tensor(part, "float32") for part in each], variables
            )
        means = [np.mean(parts, axis=0) for parts in zip(*gradients, strict=True)]
        norm = np.sqrt(sum((mean**2).sum() for mean in means))
        clipped += norm > 1
        for reference, mean in zip(references, means, strict=True):
            reference.update(mean / max(norm, 1), 0.02)
        for variable, reference in zip(variables, references, strict=True):
            assert difference(variable, reference.value) <= 5e-6
        values = [reference.value for reference in references]
        if averages is None:
            averages = values
        else:
            # Keras also averages after the two batches without an update.
            factor = momentum ** (1 / steps)
            averages = [
                factor * average + (1 - factor) * value
                for average, value in zip(averages, values, strict=True)
            ]
        held = ema_values(optimizer, variables)
        for average, expected in zip(held, averages, strict=True):
            assert difference(average, expected) <= 5e-6
        # After the next two batches, without an update.
        averages = [
            momentum ** (1 - 1 / steps) * average + (1 - momentum ** (1 - 1 / steps)) * value
            for average, value in zip(averages, values, strict=True)
        ]
    assert clipped > 0
    optimizer.finalize_variable_values(variables)
    for variable, average in zip(variables, held, strict=True):
        assert difference(variable, average) == 0


def ema_values(optimizer, variables):
    """The averages of variables in an optimizer."""
    by_path = {each.path.rpartition("/")[2]: to_numpy(each) for each in optimizer.variables}
    return [by_path[f"{each.path.replace('/', '_')}_average"] for each in variables]
