"""Feature pyramid network."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import argument_error, check_bool, check_integer
from keras_spm.layers.adaptation import AdaptedSublayers
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.initializers import GlorotUniform
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class FeaturePyramid(AdaptedSublayers, keras.layers.Layer):
    """Feature pyramid network: the same number of channels at every level, top-down fusion.

    A lateral 1x1 convolution per level; from the coarsest level down, each level adds the
    next coarser one, upsampled to its size by nearest neighbors; then a 3x3 convolution per
    level. Extra levels are computed by 3x3 convolutions with stride 2, the first from the
    coarsest input, or by subsampling.

    Args:
        channels: int, of every output level.
        extra_levels: int, number of additional coarser levels.
        subsample_extra_levels: bool, whether an extra level is every second row and column of
            the output before it, instead of a convolution.

    Input: {"P2": (batch, height, width, any channels), …}; each level has half the size of
    the one before, rounded up or down. Output: the same levels with `channels` channels,
    and the extra levels.

    Reference:
        Lin et al., Feature Pyramid Networks, arXiv 1612.03144; extra levels as in
        RetinaNet, arXiv 1708.02002.
    """

    def __init__(
        self,
        channels: int = 256,
        extra_levels: int = 0,
        subsample_extra_levels: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.channels = check_integer("channels", channels)
        self.extra_levels = check_integer("extra_levels", extra_levels, minimum=0)
        self.subsample_extra_levels = check_bool("subsample_extra_levels", subsample_extra_levels)

    def build(self, input_shape: dict[str, Shape]) -> None:
        self.levels = sorted_levels(input_shape)
        self.lateral_convs = {
            level: self._conv(1, f"lateral_{level}", input_shape[level][-1])
            for level in self.levels
        }
        self.output_convs = {
            level: self._conv(3, f"output_{level}", self.channels) for level in self.levels
        }
        channels, self.extra_convs = input_shape[self.levels[-1]][-1], {}
        self.extra_names = self._extra_levels_after(self.levels[-1])
        for level in () if self.subsample_extra_levels else self.extra_names:
            self.extra_convs[level] = self._conv(3, f"output_{level}", channels, strides=2)
            channels = self.channels

    def _conv(self, kernel_size, name, input_channels, strides=1):
        layer = Conv2D(
            self.channels,
            kernel_size,
            strides,
            # With stride 2, "same" would pad one side only: `call` pads both.
            padding="same" if strides == 1 else "valid",
            kernel_initializer=GlorotUniform(),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None, None, input_channels))
        return layer

    def _extra_levels_after(self, level):
        return [f"P{level_number(level) + step + 1}" for step in range(self.extra_levels)]

    def call(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = {level: self.lateral_convs[level](inputs[level]) for level in self.levels}
        for finer, coarser in reversed(list(itertools.pairwise(self.levels))):
            size = ops.shape(maps[finer])[1:3]
            maps[finer] = maps[finer] + _upsample_nearest(maps[coarser], size)
        outputs = {level: self.output_convs[level](maps[level]) for level in self.levels}
        coarsest = (outputs if self.subsample_extra_levels else inputs)[self.levels[-1]]
        for level in self.extra_names:
            coarsest = outputs[level] = self._extra_level(level, coarsest)
        return outputs

    def _extra_level(self, level, maps):
        if self.subsample_extra_levels:
            return maps[:, ::2, ::2]
        return self.extra_convs[level](backend.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0))))

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> dict[str, Shape]:
        levels = sorted_levels(input_shape)
        shapes = {level: (*input_shape[level][:-1], self.channels) for level in levels}
        batch, *sizes, _ = input_shape[levels[-1]]
        for level in self._extra_levels_after(levels[-1]):
            sizes = [size and (size + 1) // 2 for size in sizes]
            shapes[level] = (batch, *sizes, self.channels)
        return shapes

    def macs(self, input_shape: dict[str, Shape]) -> int:
        shapes, total = self.compute_output_shape(input_shape), 0
        for level in self.levels:
            total += macs(self.lateral_convs[level], input_shape[level])
            total += macs(self.output_convs[level], shapes[level])
        channels = input_shape[self.levels[-1]][-1]
        for level in self.extra_convs:
            _, height, width, _ = shapes[level]
            total += height * width * 9 * channels * self.channels
            channels = self.channels
        return total

    def get_config(self) -> dict[str, Any]:
        config = {
            "channels": self.channels,
            "extra_levels": self.extra_levels,
            "subsample_extra_levels": self.subsample_extra_levels,
        }
        return {**super().get_config(), **config}


def sorted_levels(levels: Iterable[str]) -> list[str]:
    """Returns the names of pyramid levels from the finest to the coarsest.

    Raises:
        ValueError: if they are not named "P2", "P3" and so on.
    """
    return sorted(levels, key=level_number)


def level_number(level: str) -> int:
    """Returns n for the level "Pn", whose stride is 2**n."""
    if not re.fullmatch(r"P\d+", str(level)):
        raise argument_error("inputs", 'a dict of levels "P2", "P3", …', level)
    return int(level.removeprefix("P"))


def _upsample_nearest(maps, size):
    """Position i of the larger map takes floor(i * ratio) of the smaller one."""
    for axis, length in zip((1, 2), size, strict=True):
        positions = ops.arange(length, dtype="int32") * ops.shape(maps)[axis] // length
        maps = backend.take(maps, positions, axis=axis)
    return maps
