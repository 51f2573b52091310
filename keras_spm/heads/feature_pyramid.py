"""Feature pyramid network."""

import itertools

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.macs import macs


@keras.saving.register_keras_serializable("keras_spm")
class FeaturePyramid(keras.layers.Layer):
    """Gives every level of a pyramid the same channels, and the coarser levels' meaning.

    A 1x1 convolution per level, then from the coarsest down each level adds the one above
    it, enlarged to its size by nearest neighbors; a 3x3 convolution per level ends it.
    Extra levels come by 3x3 convolutions of stride 2, the first on the coarsest input.

    Args:
        channels: int, of every level.
        extra_levels: int, how many coarser levels to add.

    Input: {"P2": (batch, height, width, any channels), …}, each level half the size of the
    one before, rounded up or down. Output: the same with `channels`, and the extra levels.

    Reference:
        Lin et al., Feature Pyramid Networks, arXiv 1612.03144; extra levels as in
        RetinaNet, arXiv 1708.02002.
    """

    def __init__(self, channels=256, extra_levels=0, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.extra_levels = extra_levels

    def build(self, input_shape):
        self.levels = sorted(input_shape, key=_number)
        self.laterals = {
            level: self._convolution(1, f"lateral_{level}", input_shape[level])
            for level in self.levels
        }
        self.outputs_by_level = {
            level: self._convolution(3, f"output_{level}", self._shape(input_shape[level]))
            for level in self.levels
        }
        shape, self.extras = input_shape[self.levels[-1]], {}
        for level in self._extra_names():
            self.extras[level] = self._convolution(3, f"output_{level}", shape, strides=2)
            shape = self._shape(shape, halved=True)

    def _convolution(self, kernel_size, name, input_shape, strides=1):
        layer = keras.layers.Conv2D(
            self.channels,
            kernel_size,
            strides,
            # Of stride 2 the padding is done in `call`: "same" would pad on one side only.
            padding="same" if strides == 1 else "valid",
            data_format="channels_last",
            kernel_initializer="glorot_uniform",
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build((None, None, None, input_shape[-1]))
        return layer

    def _extra_names(self):
        coarsest = _number(self.levels[-1])
        return [f"P{coarsest + step + 1}" for step in range(self.extra_levels)]

    def call(self, inputs):
        summed = {level: self.laterals[level](inputs[level]) for level in self.levels}
        for finer, coarser in reversed(list(itertools.pairwise(self.levels))):
            size = ops.shape(summed[finer])[1:3]
            summed[finer] = summed[finer] + _enlarged(summed[coarser], size)
        outputs = {level: self.outputs_by_level[level](summed[level]) for level in self.levels}
        maps = inputs[self.levels[-1]]
        for level, convolution in self.extras.items():
            maps = convolution(backend.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0))))
            outputs[level] = maps
        return outputs

    def _shape(self, shape, halved=False):
        batch, *sizes, _ = shape
        if halved:
            sizes = [size and (size + 1) // 2 for size in sizes]
        return (batch, *sizes, self.channels)

    def compute_output_shape(self, input_shape):
        shapes = {level: self._shape(input_shape[level]) for level in self.levels}
        shape = input_shape[self.levels[-1]]
        for level in self.extras:
            shape = shapes[level] = self._shape(shape, halved=True)
        return shapes

    def macs(self, input_shape):
        """Returns the MACs for {level: shape}, as of one image."""
        shapes, total = self.compute_output_shape(input_shape), 0
        for level in self.levels:
            total += macs(self.laterals[level], input_shape[level])
            total += macs(self.outputs_by_level[level], shapes[level])
        shape = input_shape[self.levels[-1]]
        for level, convolution in self.extras.items():
            _, height, width, _ = shapes[level]
            total += height * width * 9 * shape[-1] * convolution.filters
            shape = shapes[level]
        return total

    def get_config(self):
        config = {"channels": self.channels, "extra_levels": self.extra_levels}
        return {**super().get_config(), **config}


def _number(level):
    return int(level.removeprefix("P"))


def _enlarged(maps, size):
    """Each position of the larger map takes floor(position * ratio) of the smaller one."""
    for axis, length in zip((1, 2), size, strict=True):
        positions = ops.arange(length) * ops.shape(maps)[axis] // length
        maps = ops.take(maps, positions, axis=axis)
    return maps
