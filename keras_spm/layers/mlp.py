"""The MLPs of the transformer blocks."""

import math

import keras
from keras import ops

from keras_spm import backend
from keras_spm.layers.dense import Dense
from keras_spm.layers.depthwise_convolution import DepthwiseConv2D
from keras_spm.layers.macs import macs


@keras.saving.register_keras_serializable("keras_spm")
class MLP(keras.layers.Layer):
    """Dense map, exact GELU, linear map back, at each position.

    Args:
        hidden_dim: int, channels between the two linear maps.

    Input and output: (batch, height, width, channels).
    """

    def __init__(self, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim

    def build(self, input_shape):
        self.fc1 = self._linear(self.hidden_dim, "fc1")
        self.fc2 = self._linear(input_shape[-1], "fc2")
        self.fc1.build(input_shape)
        self.fc2.build(self._hidden_shape(input_shape))

    def _linear(self, units, name):
        return Dense(units, dtype=self.dtype_policy, name=name)

    def _hidden_shape(self, input_shape):
        return (*input_shape[:-1], self.hidden_dim)

    def call(self, inputs):
        return self.fc2(backend.gelu(self.fc1(inputs)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        hidden_shape = self._hidden_shape(input_shape)
        return macs(self.fc1, input_shape) + macs(self.fc2, hidden_shape)

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable("keras_spm")
class ConvolutionalMLP(MLP):
    """An MLP with a 3x3 depthwise convolution before its GELU.

    The convolution's zero padding is what tells positions apart in PVT v2.

    Args:
        hidden_dim: int, channels between the two linear maps.
        linear_attention: bool, whether a ReLU stands before the convolution, as in
            the variants with linear attention.

    Input and output: (batch, height, width, channels).

    Reference:
        Wang et al., PVT v2, arXiv 2106.13797, section 3.3.
    """

    def __init__(self, hidden_dim, linear_attention=False, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        self.linear_attention = linear_attention
        self.depthwise = DepthwiseConv2D(3, dtype=self.dtype_policy, name="depthwise_3x3")

    def build(self, input_shape):
        super().build(input_shape)
        self.depthwise.build(self._hidden_shape(input_shape))

    def call(self, inputs):
        sizes = inputs.shape[1:-1]
        bytes_within = None if None in sizes else 4 * math.prod(sizes) * self.hidden_dim
        return backend.chunked_by_image(self._transform, inputs, bytes_within)

    def _transform(self, inputs):
        hidden = self.fc1(inputs)
        if self.linear_attention:
            hidden = ops.relu(hidden)
        return self.fc2(backend.gelu(self.depthwise(hidden)))

    def macs(self, input_shape):
        hidden_shape = self._hidden_shape(input_shape)
        return super().macs(input_shape) + macs(self.depthwise, hidden_shape)

    def get_config(self):
        return {**super().get_config(), "linear_attention": self.linear_attention}
