"""FeaturePyramid and SemanticFPN against the same networks in PyTorch."""

import math
import re

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import keras_spm
from keras_spm.heads import FeaturePyramid, SemanticFPN
from keras_spm.layers import macs
from tests.helpers import difference, gradients, random_array, randomize, to_numpy

CHANNELS = {"P2": 3, "P3": 4, "P4": 5, "P5": 6}


def _maps(height, width, half=math.ceil):
    """Random maps, each level half as large as the one before, rounded by `half`."""
    maps = {}
    for seed, (level, count) in enumerate(CHANNELS.items()):
        maps[level] = random_array(2, height, width, count, seed=seed)
        height, width = half(height / 2), half(width / 2)
    return maps


class _TorchPyramid(nn.Module):
    """As in PyTorch's detection libraries: nearest neighbors, extra levels from the input."""

    def __init__(self, inputs, channels, extra_levels):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in inputs)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in inputs)
        sources = [inputs[-1], *[channels] * extra_levels][:extra_levels]
        self.extras = nn.ModuleList(nn.Conv2d(count, channels, 3, 2, 1) for count in sources)

    def forward(self, maps):
        sums = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        for index in range(len(sums) - 1, 0, -1):
            size = sums[index - 1].shape[2:]
            sums[index - 1] = sums[index - 1] + functional.interpolate(sums[index], size)
        results = [output(each) for output, each in zip(self.outputs, sums, strict=True)]
        last = maps[-1]
        for extra in self.extras:
            last = extra(last)
            results.append(last)
        return results


class _TorchSemanticFPN(nn.Module):
    """A pyramid, then 1, 1, 2 and 3 convolutions, summed at the size of the finest level."""

    def __init__(self, inputs, pyramid_channels, channels, classes):
        super().__init__()
        self.pyramid = _TorchPyramid(inputs, pyramid_channels, 0)
        self.branches = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(
                        channels if number else pyramid_channels, channels, 3, 1, 1, bias=False
                    ),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                )
                for number in range(max(index, 1))
            )
            for index in range(len(inputs))
        )
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, maps):
        maps, total = self.pyramid(maps), 0
        for index, (branch, each) in enumerate(zip(self.branches, maps, strict=True)):
            for number, block in enumerate(branch, start=1):
                each = block(each)
                if index:
                    size = maps[index - number].shape[2:]
                    each = functional.interpolate(each, size, mode="bilinear")
            total = total + each
        return self.classifier(total)


_VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "bias": "bias",
}


def _torch_name(path):
    """The name of a variable in the modules above."""
    *parents, layer, variable = path.split("/")
    variable = _VARIABLES[variable]
    # A pyramid inside a head.
    prefix = "pyramid." if len(parents) > 1 or parents == ["feature_pyramid"] else ""
    if match := re.fullmatch(r"lateral_P(\d)", layer):
        return f"{prefix}laterals.{int(match[1]) - 2}.{variable}"
    if match := re.fullmatch(r"output_P(\d)", layer):
        index = int(match[1]) - 2
        name = f"outputs.{index}" if index < 4 else f"extras.{index - 4}"
        return f"{prefix}{name}.{variable}"
    if match := re.fullmatch(r"P(\d)_(\d)_(convolution|norm)", layer):
        kind = 0 if match[3] == "convolution" else 1
        return f"branches.{int(match[1]) - 2}.{int(match[2]) - 1}.{kind}.{variable}"
    return f"{layer}.{variable}"


def _assign(module, layer):
    """Copies a layer's values to a PyTorch module, each of whose tensors gets one."""
    state = {}
    for variable in layer.weights:
        if "seed_generator" in variable.path:
            continue
        value = to_numpy(variable)
        if value.ndim == 2:  # A 1x1 convolution in PyTorch.
            value = value[None, None]
        state[_torch_name(variable.path)] = torch.tensor(
            value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        )
    result = module.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in result.missing_keys)


def _to_torch(maps):
    return [torch.tensor(each).permute(0, 3, 1, 2) for each in maps.values()]


# The last one as of a backbone whose convolutions drop incomplete strides.
SIZES = [(16, 24), (13, 9), (29, 25, math.floor)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra_levels", [0, 2])
def test_feature_pyramid(size, extra_levels):
    maps = _maps(*size)
    layer = FeaturePyramid(8, extra_levels, name="pyramid")
    layer.build({level: each.shape for level, each in maps.items()})
    randomize(layer)
    reference = _TorchPyramid(list(CHANNELS.values()), 8, extra_levels)
    _assign(reference, layer)
    outputs = layer(maps)
    assert list(outputs) == [f"P{number}" for number in range(2, 6 + extra_levels)]
    shapes = layer.compute_output_shape({level: each.shape for level, each in maps.items()})
    expected = reference(_to_torch(maps))
    for (level, output), each in zip(outputs.items(), expected, strict=True):
        assert tuple(output.shape) == shapes[level]
        # Sums of up to 9 * 8 products of numbers about 1.
        assert difference(output, each.detach().permute(0, 2, 3, 1).numpy()) <= 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("training", [False, True])
def test_semantic_fpn(size, training):
    maps = _maps(*size)
    layer = SemanticFPN(7, pyramid_channels=8, channels=6, dropout=0.0, name="head")
    layer.build({level: each.shape for level, each in maps.items()})
    randomize(layer)
    reference = _TorchSemanticFPN(list(CHANNELS.values()), 8, 6, 7).train(training)
    _assign(reference, layer)
    outputs = layer(maps, training=training)
    assert tuple(outputs.shape) == (2, *size[:2], 7)
    shapes = {level: each.shape for level, each in maps.items()}
    assert layer.compute_output_shape(shapes) == tuple(outputs.shape)
    expected = reference(_to_torch(maps)).detach().permute(0, 2, 3, 1).numpy()
    assert difference(outputs, expected) <= 1e-5 * max(np.abs(expected).max(), 1)


def test_gradients():
    """Of all parameters of head and pyramid, and of the finest maps."""
    maps = _maps(13, 9)
    images = keras.Input(maps["P2"].shape[1:])
    finest, others = maps["P2"], {level: maps[level] for level in ("P3", "P4", "P5")}
    constant = {level: keras.ops.convert_to_tensor(each[:1]) for level, each in others.items()}

    class AddCoarserLevels(keras.layers.Layer):
        def call(self, inputs):
            return {"P2": inputs, **constant}

    head = SemanticFPN(7, pyramid_channels=8, channels=8, dropout=0.0, name="head")
    model = keras.Model(images, head(AddCoarserLevels()(images)))
    randomize(model)
    reference = _TorchSemanticFPN(list(CHANNELS.values()), 8, 8, 7)
    _assign(reference, head)
    cotangent = random_array(1, 13, 9, 7, seed=9)
    _, by_path, by_input = gradients(model, finest[:1], cotangent)
    inputs = [each[:1] for each in _to_torch(maps)]
    inputs[0].requires_grad_()
    (reference(inputs) * torch.tensor(cotangent).permute(0, 3, 1, 2)).sum().backward()
    named = dict(reference.named_parameters())
    assert len(by_path) == len(named)
    for path, gradient in by_path.items():
        expected = named[_torch_name(path)].grad.numpy()
        if gradient.ndim == 4:
            expected = expected.transpose(2, 3, 1, 0)
        if gradient.ndim == 2:
            expected = expected[:, :, 0, 0].T
        assert difference(gradient, expected) <= 1e-4 * np.abs(expected).max() + 1e-4, path
    expected = inputs[0].grad.permute(0, 2, 3, 1).numpy()
    assert difference(by_input, expected) <= 1e-4 * np.abs(expected).max()


def test_dropout_is_applied_in_training_only():
    maps = _maps(16, 24)
    layer = SemanticFPN(7, pyramid_channels=8, channels=8, dropout=0.5)
    first, second = (to_numpy(layer(maps)) for _ in range(2))
    assert (first == second).all()
    first, second = (to_numpy(layer(maps, training=True)) for _ in range(2))
    assert (first != second).any()


@pytest.mark.only("torch")
@pytest.mark.parametrize("variant", ["b0", "b1", "b2"])
def test_parameters_and_macs_are_the_official_heads(variant):
    """MACs at 512x512 by PyTorch's counter, with 256 channels in the pyramid, 128 after it."""
    from torch.utils.flop_counter import FlopCounterMode

    backbone = keras_spm.PVTv2.from_preset(variant, load_weights=False)
    model = keras_spm.SemanticSegmenter(backbone, 150)
    channels = [each.shape[-1] for each in backbone.pyramid_outputs.values()]
    reference = _TorchSemanticFPN(channels, 256, 128, 150)
    expected = sum(each.numel() for each in reference.parameters())
    found, in_backbone = (
        sum(np.prod(variable.shape) for variable in each.trainable_variables)
        for each in (model, backbone)
    )
    assert found - in_backbone == expected
    maps = [
        torch.zeros(1, count, 512 // stride, 512 // stride)
        for count, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    with FlopCounterMode(display=False) as counter:
        reference(maps)
    shape = (1, 512, 512, 3)
    assert model.macs(shape) - macs(backbone, shape) == counter.get_total_flops() / 2
