"""Feature pyramid and Semantic FPN head against the same networks in PyTorch."""

import math
import re

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import keras_spm
from keras_spm.heads import FeaturePyramid
from keras_spm.heads import SemanticFPNHead
from keras_spm.layers import macs
from tests.helpers import difference
from tests.helpers import gradients
from tests.helpers import random_array
from tests.helpers import randomize
from tests.helpers import to_numpy

CHANNELS = {"P2": 3, "P3": 4, "P4": 5, "P5": 6}


def _maps(height, width, half=math.ceil):
    """A pyramid of random maps, every level half of the one before, rounded so."""
    maps = {}
    for seed, (level, count) in enumerate(CHANNELS.items()):
        maps[level] = random_array(2, height, width, count, seed=seed)
        height, width = half(height / 2), half(width / 2)
    return maps


class _TorchPyramid(nn.Module):
    """As detection libraries in PyTorch write it: nearest neighbors, extra levels on the input."""

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


class _TorchHead(nn.Module):
    """Branches of 1, 1, 2 and 3 convolutions, summed at the finest level's size."""

    def __init__(self, inputs, channels, classes):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(channels if number else count, channels, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                )
                for number in range(max(index, 1))
            )
            for index, count in enumerate(inputs)
        )
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, maps):
        total = 0
        for index, (branch, each) in enumerate(zip(self.branches, maps, strict=True)):
            for number, block in enumerate(branch, start=1):
                each = block(each)
                if index:
                    size = maps[index - number].shape[2:]
                    each = functional.interpolate(each, size, mode="bilinear")
            total = total + each
        return self.classifier(total)


_PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "bias": "bias",
}


def _torch_name(path):
    """Our variable's name in the modules above."""
    *_, layer, part = path.split("/")
    part = _PARTS[part]
    if match := re.fullmatch(r"lateral_P(\d)", layer):
        return f"laterals.{int(match[1]) - 2}.{part}"
    if match := re.fullmatch(r"output_P(\d)", layer):
        index = int(match[1]) - 2
        return f"outputs.{index}.{part}" if index < 4 else f"extras.{index - 4}.{part}"
    if match := re.fullmatch(r"P(\d)_(\d)_(convolution|norm)", layer):
        kind = 0 if match[3] == "convolution" else 1
        return f"branches.{int(match[1]) - 2}.{int(match[2]) - 1}.{kind}.{part}"
    return f"{layer}.{part}"


def _assign(module, layer):
    """Gives the PyTorch module our layer's values; each of its tensors gets one."""
    state = {}
    for variable in layer.weights:
        if "seed_generator" in variable.path:
            continue
        value = to_numpy(variable)
        if value.ndim == 2:  # A 1x1 convolution there.
            value = value[None, None]
        state[_torch_name(variable.path)] = torch.tensor(
            value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        )
    said = module.load_state_dict(state, strict=False)
    assert not said.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in said.missing_keys)


def _to_torch(maps):
    return [torch.tensor(each).permute(0, 3, 1, 2) for each in maps.values()]


# The last as of a backbone whose convolutions drop what does not fill a stride.
SIZES = [(16, 24), (13, 9), (29, 25, math.floor)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra_levels", [0, 2])
def test_feature_pyramid(size, extra_levels):
    maps = _maps(*size)
    layer = FeaturePyramid(8, extra_levels)
    layer.build({level: each.shape for level, each in maps.items()})
    randomize(layer)
    reference = _TorchPyramid(list(CHANNELS.values()), 8, extra_levels)
    _assign(reference, layer)
    outputs = layer(maps)
    assert list(outputs) == [f"P{number}" for number in range(2, 6 + extra_levels)]
    shapes = layer.compute_output_shape({level: each.shape for level, each in maps.items()})
    expected = reference(_to_torch(maps))
    for (level, output), theirs in zip(outputs.items(), expected, strict=True):
        assert tuple(output.shape) == shapes[level]
        # Sums of up to 9 * 8 products of numbers about 1.
        assert difference(output, theirs.detach().permute(0, 2, 3, 1).numpy()) <= 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("training", [False, True])
def test_semantic_fpn_head(size, training):
    maps = _maps(*size)
    layer = SemanticFPNHead(7, channels=8, dropout=0.0)
    layer.build({level: each.shape for level, each in maps.items()})
    randomize(layer)
    reference = _TorchHead(list(CHANNELS.values()), 8, 7).train(training)
    _assign(reference, layer)
    outputs = layer(maps, training=training)
    assert outputs.shape == (2, *size[:2], 7)
    expected = reference(_to_torch(maps)).detach().permute(0, 2, 3, 1).numpy()
    assert difference(outputs, expected) <= 1e-5 * max(np.abs(expected).max(), 1)


def test_gradients_of_both():
    """Through head and pyramid to every parameter, and to the finest maps."""
    maps = _maps(13, 9)
    inputs = {level: keras.Input(each.shape[1:]) for level, each in maps.items()}
    finest, others = maps["P2"], {level: maps[level] for level in ("P3", "P4", "P5")}
    constant = {level: keras.ops.convert_to_tensor(each[:1]) for level, each in others.items()}
    images = inputs["P2"]

    class Rest(keras.layers.Layer):
        def call(self, inputs):
            return {"P2": inputs, **constant}

    pyramid, head = FeaturePyramid(8), SemanticFPNHead(7, channels=8, dropout=0.0)
    model = keras.Model(images, head(pyramid(Rest()(images))))
    randomize(model)
    torch_pyramid = _TorchPyramid(list(CHANNELS.values()), 8, 0)
    torch_head = _TorchHead([8] * 4, 8, 7)
    _assign(torch_pyramid, pyramid)
    _assign(torch_head, head)
    cotangent = random_array(1, 13, 9, 7, seed=9)
    _, by_path, by_input = gradients(model, finest[:1], cotangent)
    theirs = [each[:1] for each in _to_torch(maps)]
    theirs[0].requires_grad_()
    outputs = torch_head(torch_pyramid(theirs))
    (outputs * torch.tensor(cotangent).permute(0, 3, 1, 2)).sum().backward()
    named = {**dict(torch_pyramid.named_parameters()), **dict(torch_head.named_parameters())}
    assert len(by_path) == len(named)
    for path, gradient in by_path.items():
        expected = named[_torch_name(path)].grad.numpy()
        if gradient.ndim == 4:
            expected = expected.transpose(2, 3, 1, 0)
        if gradient.ndim == 2:
            expected = expected[:, :, 0, 0].T
        assert difference(gradient, expected) <= 1e-4 * np.abs(expected).max() + 1e-4, path
    expected = theirs[0].grad.permute(0, 2, 3, 1).numpy()
    assert difference(by_input, expected) <= 1e-4 * np.abs(expected).max()


@pytest.mark.only("torch")
@pytest.mark.parametrize("variant", ["b0", "b1", "b2"])
def test_sizes_are_the_official_heads(variant):
    """Parameters, and MACs at 512x512 by PyTorch's counter, of FPN 256, head 128."""
    from torch.utils.flop_counter import FlopCounterMode

    backbone = keras_spm.PVTv2.from_preset(variant, load_weights=False)
    model = keras_spm.SemanticSegmenter(backbone, 150)
    channels = [each.shape[-1] for each in backbone.pyramid_outputs.values()]
    reference = nn.ModuleList([_TorchPyramid(channels, 256, 0), _TorchHead([256] * 4, 128, 150)])
    parameters = sum(each.numel() for each in reference.parameters())
    ours = sum(np.prod(each.shape) for each in model.trainable_variables)
    own = sum(np.prod(each.shape) for each in backbone.trainable_variables)
    assert ours - own == parameters
    maps = [
        torch.zeros(1, count, 512 // stride, 512 // stride)
        for count, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    with FlopCounterMode(display=False) as counter:
        reference[1](reference[0](maps))
    shape = (1, 512, 512, 3)
    counted = model.macs(shape) - macs(backbone, shape)
    assert counted == counter.get_total_flops() / 2
