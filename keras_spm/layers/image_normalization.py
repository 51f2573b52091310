"""From raw pixels to what a network was trained on."""

import keras
from keras import ops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STANDARD_DEVIATION = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("keras_spm")
class ImageNormalization(keras.layers.Layer):
    """`(pixels / 255 - mean) / standard_deviation`, in float32 under every policy.

    In bfloat16 a pixel would be off by up to 0.02 standard deviations. The result is
    cast to the compute dtype at the end.

    Args:
        mean: floats, one per channel, for pixels scaled to [0, 1].
        standard_deviation: floats, likewise.

    Input: (batch, height, width, channels) in [0, 255], any dtype. Output: the same
    shape.
    """

    def __init__(
        self, mean=IMAGENET_MEAN, standard_deviation=IMAGENET_STANDARD_DEVIATION, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.mean = tuple(mean)
        self.standard_deviation = tuple(standard_deviation)

    def call(self, inputs):
        pixels = ops.cast(inputs, "float32") / 255
        mean = ops.convert_to_tensor(self.mean, dtype="float32")
        deviation = ops.convert_to_tensor(self.standard_deviation, dtype="float32")
        return ops.cast((pixels - mean) / deviation, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def multiply_adds(self, input_shape):
        return 0

    def get_config(self):
        config = {"mean": self.mean, "standard_deviation": self.standard_deviation}
        return {**super().get_config(), **config}
