"""The linear map of every position."""

import math

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.initializers import dense_initializer


@keras.saving.register_keras_serializable("keras_spm")
class Dense(keras.layers.Layer):
    """A linear map of the channels, as each platform computes it best.

    What `keras.layers.Dense` computes without activation; how is said in
    `keras_spm.backend`.

    Args:
        units: int, channels of the output.
        use_bias: bool.
        kernel_initializer: as Keras takes it; by default normal with deviation 0.02.

    Input: (…, channels). Output: (…, units).
    """

    def __init__(self, units, use_bias=True, kernel_initializer=None, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.use_bias = use_bias
        self.kernel_initializer = (
            dense_initializer()
            if kernel_initializer is None
            else keras.initializers.get(kernel_initializer)
        )

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        return backend.dense(inputs, ops.convert_to_tensor(self.kernel), bias)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def macs(self, input_shape):
        return math.prod(input_shape[1:]) * self.units

    def get_config(self):
        config = {
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **config}
