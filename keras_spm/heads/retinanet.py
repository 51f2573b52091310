"""The head of RetinaNet."""

import math

import keras
from keras import ops

from keras_spm.heads.anchors import anchor_count
from keras_spm.layers.macs import macs

# Before training an anchor holds an object of some class with this probability: at 0.5 the
# many anchors of the background would outweigh all else.
_PRIOR = 0.01


@keras.saving.register_keras_serializable("keras_spm")
class RetinaNetHead(keras.layers.Layer):
    """Class logits and box deltas for every anchor, by the same weights on every level.

    Two towers of 3x3 convolutions with ReLU, one for classes and one for boxes.

    Args:
        num_classes: int.
        anchors_per_position: int.
        channels: int, of the towers' convolutions.
        depth: int, convolutions of each tower before its last.

    Input: {"P3": (batch, height, width, channels), …}, all of the same channels. Output:
    {"logits": (batch, anchors, num_classes), "deltas": (batch, anchors, 4)}, float32 under
    every policy, anchors from the finest level on, row by row.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, section 4.
    """

    def __init__(self, num_classes, anchors_per_position=9, channels=256, depth=4, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.anchors_per_position = anchors_per_position
        self.channels = channels
        self.depth = depth

    def build(self, input_shape):
        self.levels = sorted(input_shape)
        (channels,) = {shape[-1] for shape in input_shape.values()}
        prior = keras.initializers.Constant(-math.log((1 - _PRIOR) / _PRIOR))
        self.class_tower = self._tower("class", self.num_classes, prior, channels)
        self.box_tower = self._tower("box", 4, "zeros", channels)

    def _tower(self, name, numbers, bias_initializer, input_channels):
        """Convolutions, of which the last gives so many numbers for each anchor."""
        tower = []
        for number in range(1, self.depth + 2):
            is_last = number > self.depth
            convolution = keras.layers.Conv2D(
                self.anchors_per_position * numbers if is_last else self.channels,
                3,
                padding="same",
                data_format="channels_last",
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                bias_initializer=bias_initializer if is_last else "zeros",
                # float32 at the end: half a digit of a logit is too coarse for a loss.
                dtype="float32" if is_last else self.dtype_policy,
                name=f"{name}_predictor" if is_last else f"{name}_{number}",
            )
            convolution.build((None, None, None, input_channels))
            input_channels = self.channels
            tower.append(convolution)
        return tower

    def call(self, inputs):
        return {
            "logits": self._on_all_levels(self.class_tower, self.num_classes, inputs),
            "deltas": self._on_all_levels(self.box_tower, 4, inputs),
        }

    def _on_all_levels(self, tower, numbers, inputs):
        *hidden, last = tower
        results = []
        for level in self.levels:
            maps = inputs[level]
            for convolution in hidden:
                maps = ops.relu(convolution(maps))
            results.append(ops.reshape(last(maps), (ops.shape(maps)[0], -1, numbers)))
        return ops.concatenate(results, axis=1)

    def compute_output_shape(self, input_shape):
        batch = next(iter(input_shape.values()))[0]
        anchors = anchor_count(input_shape, self.anchors_per_position)
        return {"logits": (batch, anchors, self.num_classes), "deltas": (batch, anchors, 4)}

    def macs(self, input_shape):
        """Returns the MACs for {level: shape}, as of one image."""
        return sum(
            macs(convolution, (*shape[:-1], convolution.kernel.shape[2]))
            for shape in input_shape.values()
            for convolution in (*self.class_tower, *self.box_tower)
        )

    def get_config(self):
        config = {
            "num_classes": self.num_classes,
            "anchors_per_position": self.anchors_per_position,
            "channels": self.channels,
            "depth": self.depth,
        }
        return {**super().get_config(), **config}
