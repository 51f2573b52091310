"""The convolutional MLP of PVT v2."""

import keras
from keras import ops

from keras_spm.layers.depthwise_convolution import DepthwiseConv2D
from keras_spm.layers.initializers import linear_initializer
from keras_spm.layers.multiply_adds import multiply_adds


@keras.saving.register_keras_serializable("keras_spm")
class ConvolutionalMLP(keras.layers.Layer):
    """Linear map, 3x3 depthwise convolution, exact GELU, linear map back.

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
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.linear_attention = linear_attention
        self.fc1 = keras.layers.Dense(
            hidden_dim,
            activation="relu" if linear_attention else None,
            kernel_initializer=linear_initializer(),
            dtype=self.dtype_policy,
            name="fc1",
        )
        self.depthwise = DepthwiseConv2D(3, dtype=self.dtype_policy, name="depthwise_3x3")

    def build(self, input_shape):
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        self.fc2 = keras.layers.Dense(
            input_shape[-1],
            kernel_initializer=linear_initializer(),
            dtype=self.dtype_policy,
            name="fc2",
        )
        self.fc1.build(input_shape)
        self.depthwise.build(hidden_shape)
        self.fc2.build(hidden_shape)

    def call(self, inputs):
        hidden = self.depthwise(self.fc1(inputs))
        return self.fc2(ops.gelu(hidden, approximate=False))

    def compute_output_shape(self, input_shape):
        return input_shape

    def multiply_adds(self, input_shape):
        hidden_shape = (*input_shape[:-1], self.hidden_dim)
        return (
            multiply_adds(self.fc1, input_shape)
            + multiply_adds(self.depthwise, hidden_shape)
            + multiply_adds(self.fc2, hidden_shape)
        )

    def get_config(self):
        config = {"hidden_dim": self.hidden_dim, "linear_attention": self.linear_attention}
        return {**super().get_config(), **config}
