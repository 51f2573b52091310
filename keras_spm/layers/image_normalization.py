"""Normalization of raw pixels."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_each, check_number
from keras_spm.registry import lookup
from keras_spm.types import Shape, Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHANNEL_AXES = {"channels_last": -1, "channels_first": 1}


@keras.saving.register_keras_serializable("keras_spm")
class ImageNormalization(keras.layers.Layer):
    """Computes `(pixels / 255 - mean) / std` in float32 under every dtype policy.

    In bfloat16 a pixel would be off by up to 0.02 standard deviations. Only the result is
    cast to the compute dtype.

    Args:
        mean, std: floats in [0, 1] and (0, 10], one per channel, of pixels scaled to [0, 1].
        data_format: `"channels_last"` or `"channels_first"`.

    Input: (batch, height, width, channels) in [0, 255], of any dtype, or channels first.
    Output: the same shape.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        data_format: str = "channels_last",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        # Values of pixels in [0, 255] would make every image black.
        self.mean = check_each("mean", mean, check_number, maximum=1)
        # Those of ImageNet in [0, 255] are above 50.
        limits = {"maximum": 10, "allow_minimum": False}
        self.std = check_each("std", std, check_number, len(self.mean), **limits)
        lookup("data_format", data_format, _CHANNEL_AXES)
        self.data_format = data_format

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[_CHANNEL_AXES[self.data_format]]
        if channels != len(self.mean):
            raise ValueError(
                f"`mean` and `std` must have one value per channel, {channels}. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        # Maps of one channel would be broadcast.
        axes = {_CHANNEL_AXES[self.data_format]: channels}
        self.input_spec = keras.layers.InputSpec(ndim=4, axes=axes)

    def call(self, inputs: Tensor) -> Tensor:
        if backend.is_exporting() and self.data_format == "channels_last":
            scale = 1 / (255 * np.array(self.std))
            offset = -np.array(self.mean) / np.array(self.std)
            scale, offset = (ops.convert_to_tensor(each, "float32") for each in (scale, offset))
            outputs = backend.scale_channels(ops.cast(inputs, "float32"), scale, offset)
            return ops.cast(outputs, self.compute_dtype)
        shape = (-1, 1, 1) if self.data_format == "channels_first" else (-1,)
        mean, std = (
            ops.reshape(ops.convert_to_tensor(values, dtype="float32"), shape)
            for values in (self.mean, self.std)
        )
        outputs = backend.xla_compiled(_normalize)(inputs, mean, std)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        config = {"mean": self.mean, "std": self.std, "data_format": self.data_format}
        return {**super().get_config(), **config}


def _normalize(inputs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (ops.cast(inputs, "float32") / 255 - mean) / std
