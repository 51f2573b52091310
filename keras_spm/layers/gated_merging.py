"""A pretrained merging with Stepwise Patch Merging added behind a gate."""

from typing import Any

import keras
from keras import ops

from keras_spm.layers.composite import CompositeLayer, build_once, check_layer
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class GatedMerging(CompositeLayer):
    """Adds a merging layer to another one, behind a gate that is closed at first.

    With the share s of the default layer, which is 1 until a callback fades it out, and the
    gate g, a vector with a value for each channel:

    `outputs = s * default(inputs) + (g + 1 - s) * spm(inputs)`

    With g = 0 and s = 1, the initial values, the outputs are those of the default layer to
    the last bit. With s = 0, the default layer is not used: `keras_spm.spm_only` removes it.
    `keras_spm.optimizers.AdamW` trains the gate at a multiple of the learning rate and
    without weight decay: at the common learning rate it would stay near zero.

    Args:
        default: layer that halves the map, with pretrained weights.
        spm: layer with outputs of the same shape, such as `StepwisePatchMerging`.

    Input: (batch, height, width, channels). Output: that of both layers.

    Example:
    >>> layers = keras_spm.layers
    >>> merging = layers.GatedMerging(layers.PatchMerging(128), layers.StepwisePatchMerging(128))
    >>> merging(np.zeros((2, 56, 56, 64))).shape
    (2, 28, 28, 128)
    """

    child_arguments = ("default", "spm")

    def __init__(self, default: keras.layers.Layer, spm: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.default = check_layer("default", default)
        self.spm = check_layer("spm", spm)

    @property
    def steps(self) -> list[keras.layers.Layer]:
        """The steps of Stepwise Patch Merging, in their order."""
        return self.spm.steps

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for layer in (self.default, self.spm):
            build_once(layer, input_shape)
        channels = self.compute_output_shape(input_shape)[-1]
        self.gate = self.add_weight(name="gate", shape=(channels,), initializer="zeros")
        self.default_share = self.add_weight(
            name="default_share", shape=(), initializer="ones", trainable=False
        )

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        # Keras passes `training` to the layers that take it.
        default, spm = self.default(inputs), self.spm(inputs)
        share = ops.convert_to_tensor(self.default_share)
        gate = ops.convert_to_tensor(self.gate) + (1 - share)
        return share * default + gate * spm

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.default.compute_output_shape(input_shape)

    def macs(self, input_shape: Shape) -> int:
        return macs(self.default, input_shape) + macs(self.spm, input_shape)
