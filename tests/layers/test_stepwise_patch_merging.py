"""Stepwise Patch Merging against golden values of the reference and a plain definition."""

import sys

import keras
import numpy as np
import pytest

from keras_spm import load_torch_weights
from keras_spm.backend import chunked, grouped_pointwise
from keras_spm.converters.stepwise_patch_merging import MERGING_RULES
from keras_spm.layers import GuidedLocalEnhancement, MultiScaleAggregation, StepwisePatchMerging
from tests import golden
from tests.helpers import (
    compiled,
    difference,
    gradients,
    gradients_at_once_and_by_image,
    random_array,
    randomize,
    to_numpy,
)

goldens = pytest.mark.parametrize("name", golden.LAYERS)


@pytest.fixture(params=["at once", "by image"])
def images(request, monkeypatch):
    """Computes all images at once, as for small maps, or image by image, as for large ones."""
    min_bytes = {"at once": sys.maxsize, "by image": 0}[request.param]
    monkeypatch.setattr(chunked, "_MIN_BYTES", min_bytes)


def _loaded(name):
    arrays, _ = golden.read(name)
    layer = StepwisePatchMerging(golden.LAYERS[name])
    layer.build(arrays["input"].shape)
    load_torch_weights(layer, golden.state(name))
    return layer, arrays


@pytest.mark.usefixtures("images")
@goldens
def test_evaluation_equals_the_reference(name):
    layer, arrays = _loaded(name)
    aggregated = compiled(layer.multi_scale_aggregation)(arrays["input"])
    assert difference(aggregated, arrays["msa"]) <= 1e-5
    assert difference(compiled(layer)(arrays["input"]), arrays["output"]) <= 1e-5


def _binding(path):
    """Returns the binding of a variable to tensors of the reference."""
    bindings = (rule.bind(path, {path}) for rule in MERGING_RULES)
    return next(binding for binding in bindings if binding)


@pytest.mark.usefixtures("images")
@goldens
def test_training_step_equals_the_reference(name):
    layer, arrays = _loaded(name)
    outputs, by_path, by_input = gradients(layer, arrays["input"], arrays["train.cotangent"])
    assert difference(outputs, arrays["train.output"]) <= 1e-5

    checked = {"input": (by_input, arrays["train.grad.input"])}
    for path, gradient in by_path.items():
        path = path.removeprefix(f"{layer.name}/")
        binding = _binding(path)
        references = [arrays[f"train.grad.{name}"] for name in binding.names]
        (reference,) = binding.transform.to_keras(references, [gradient.shape])
        checked[path] = (gradient, reference)
    assert len(checked) == sum(key.startswith("train.grad.") for key in arrays)
    for path, (gradient, reference) in checked.items():
        error = np.linalg.norm(gradient - reference)
        assert error <= 1e-4 * np.linalg.norm(reference) + 1e-4, (path, error)

    for variable in layer.non_trainable_weights:
        path = variable.path.removeprefix(f"{layer.name}/")
        (name,) = _binding(path).names
        assert difference(variable, arrays[f"train.after.{name}"]) <= 1e-6, path


def test_gradients_of_inference(monkeypatch):
    """By image as at once, though TensorFlow computes them with another program."""
    layer = StepwisePatchMerging(16, num_heads=4)
    maps, cotangent = random_array(3, 7, 6, 8), random_array(3, 4, 3, 16, seed=1)
    layer.build(maps.shape)
    randomize(layer)
    results = gradients_at_once_and_by_image(layer, maps, cotangent, False, monkeypatch)
    (outputs, by_path, by_input), (other_outputs, other_by_path, other_by_input) = results
    assert difference(outputs, other_outputs) <= 1e-5
    assert difference(by_input, other_by_input) <= 1e-5 * np.abs(by_input).max()
    for path, gradient in by_path.items():
        error = difference(gradient, other_by_path[path])
        assert error <= 1e-5 * max(np.abs(gradient).max(), 1), path


def _layer_norm(x, norm):
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * to_numpy(norm.gamma) + to_numpy(norm.beta)


def _plain_attention(layer, maps, guides):
    """The definition, window by window in float64, without positions outside the map.

    Returns (outputs, mean attention weights over heads, (batch, rows, columns, 5)).
    """
    kernel, bias = (to_numpy(v).astype("float64") for v in (layer.qkv_kernel, layer.qkv_bias))
    heads, channels = layer.num_heads, maps.shape[-1]
    outputs, mean_weights = np.empty_like(guides), np.zeros((*guides.shape[:3], 5))
    for image, row, column in np.ndindex(guides.shape[:3]):
        window = maps[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        tokens = np.concatenate([guides[image, row, column][None], window.reshape(-1, channels)])
        tokens = _layer_norm(tokens, layer.token_norm)
        query, key, value = (
            (tokens @ kernel + bias).reshape(-1, 3, heads, channels // heads)
        ).swapaxes(0, 1)
        scores = np.einsum("hd,thd->ht", query[0], key) / np.sqrt(channels / heads)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        outputs[image, row, column] = np.einsum("ht,thd->hd", weights, value).ravel()
        inside = [0, *(1 + 2 * r + c for r, c in np.ndindex(window.shape[:2]))]
        mean_weights[image, row, column, inside] = weights.mean(axis=0)
    return _layer_norm(outputs, layer.output_norm), mean_weights


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("size", "heads"),
    [((4, 6), 2), ((5, 6), 8), ((4, 7), 2), ((5, 7), 2), ((2, 2), 8), ((3, 2), 2)],
)
def test_guided_local_enhancement_equals_its_definition(size, heads):
    layer = GuidedLocalEnhancement(num_heads=heads, guide_kernel_size=5)
    maps = random_array(2, *size, 16)
    layer.build(maps.shape)
    randomize(layer)
    guides = compiled(layer.guide_depthwise)(_exact_gelu(to_numpy(layer.guide_norm(maps))))
    expected, expected_weights = _plain_attention(
        layer, maps.astype("float64"), to_numpy(guides).astype("float64")
    )
    assert difference(compiled(layer)(maps), expected) <= 1e-5
    weights = to_numpy(compiled(layer.attention_weights)(maps))
    assert difference(weights, expected_weights) <= 1e-6
    assert difference(weights.sum(-1), np.ones(weights.shape[:-1])) <= 1e-6


def _exact_gelu(x):
    from scipy.special import erf

    return (x * (1 + erf(x / np.sqrt(2))) / 2).astype("float32")


def test_aggregation_mixes_one_channel_of_every_split():
    """Outputs of group l depend only on channel l of each split."""
    layer = MultiScaleAggregation(6, kernel_sizes=(3, 5, 7), expansion=4)
    maps = random_array(1, 8, 8, 12)
    layer.build(maps.shape)
    randomize(layer)
    assert layer.grouped_kernel.shape == (3, 4, 12)
    reference = to_numpy(layer(maps))
    layer.projection.kernel.assign(np.concatenate([np.zeros((12, 6)), np.ones((36, 6))]))
    before = to_numpy(layer(maps))
    changed = maps.copy()
    changed[..., [0, 4, 8]] += (
        1  # Channel 0 of each split: group 0, whose outputs have zero weights.
    )
    assert difference(layer(changed), before) == 0
    changed[..., 1] += 1
    assert difference(layer(changed), before) > 0.1
    assert reference.shape == (1, 8, 8, 6)


@pytest.mark.parametrize("groups", [3, 8, 16, 24, 27, 32])
def test_grouped_map_equals_its_definition(groups):
    """Some numbers of groups are computed as one product, others in blocks."""
    maps, kernel = random_array(2, 3, 4, 4, groups), random_array(4, groups, 6, seed=1)
    bias = random_array(groups * 6, seed=2)
    expected = np.einsum("bhwkl,klj->bhwlj", maps, kernel).reshape(2, 3, 4, -1) + bias
    arrays = map(keras.ops.convert_to_tensor, (maps, kernel, bias))
    assert difference(compiled(grouped_pointwise)(*arrays), expected) <= 1e-5


def test_arguments_beyond_the_defaults():
    layer = StepwisePatchMerging(
        24, kernel_sizes=(3, 5), expansion=3, num_heads=4, guide_kernel_size=3
    )
    outputs = layer(random_array(2, 5, 8, 6))
    assert tuple(outputs.shape) == (2, 3, 4, 24)
    again = StepwisePatchMerging.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepwisePatchMerging(12), "num_heads=8, channels=12"),
        (lambda: MultiScaleAggregation(8, kernel_sizes=(3, 4)), r"kernel_sizes\[1\]=4"),
        (lambda: MultiScaleAggregation(8, kernel_sizes=(3, 3)), r"kernel_sizes=\(3, 3\)"),
        (lambda: GuidedLocalEnhancement(guide_kernel_size=6), "kernel_size=6"),
        (lambda: StepwisePatchMerging(16).build((1, 8, 8, 6)), "channels=6"),
        (lambda: StepwisePatchMerging(16).build((1, 1, 8, 8)), r"input_shape=\(1, 1, 8, 8\)"),
        (lambda: GuidedLocalEnhancement().build((1, 8, 8, 12)), "num_heads=8, channels=12"),
    ],
)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
