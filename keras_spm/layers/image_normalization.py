"""From raw pixels to what a network was trained on."""

import keras
from keras import ops

from keras_spm import backend

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("keras_spm")
class ImageNormalization(keras.layers.Layer):
    """`(pixels / 255 - mean) / std`, in float32 under every policy.

    In bfloat16 a pixel would be off by up to 0.02 standard deviations. The result is
    cast to the compute dtype at the end.

    Args:
        mean: floats, one per channel, for pixels scaled to [0, 1].
        std: floats, likewise.
        data_format: where the channels are.

    Input: (batch, height, width, channels) in [0, 255], any dtype, or channels first.
    Output: the same shape.
    """

    def __init__(
        self,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        data_format="channels_last",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.data_format = data_format

    def call(self, inputs):
        normalized = backend.fused_elementwise(_normalized)(
            inputs, self._per_channel(self.mean), self._per_channel(self.std)
        )
        return ops.cast(normalized, self.compute_dtype)

    def _per_channel(self, values):
        values = ops.convert_to_tensor(values, dtype="float32")
        shape = (-1, 1, 1) if self.data_format == "channels_first" else (-1,)
        return ops.reshape(values, shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        return 0

    def get_config(self):
        config = {
            "mean": self.mean,
            "std": self.std,
            "data_format": self.data_format,
        }
        return {**super().get_config(), **config}


def _normalized(inputs, mean, std):
    return (ops.cast(inputs, "float32") / 255 - mean) / std
