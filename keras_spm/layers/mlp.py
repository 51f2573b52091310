"""The MLPs of the transformer blocks."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_bool, check_integer
from keras_spm.layers.composite import CompositeLayer, build_once
from keras_spm.layers.convolution import DepthwiseConv2D
from keras_spm.layers.dense import Dense
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class MLP(CompositeLayer):
    """Dense layer, exact GELU and dense layer, at each position.

    Args:
        hidden_dim: int, channels between the two dense layers.

    Input and output: (batch, height, width, channels).
    """

    config_arguments = ("hidden_dim",)

    def __init__(self, hidden_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = check_integer("hidden_dim", hidden_dim)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.fc1 = Dense(self.hidden_dim, dtype=self.dtype_policy, name="fc1")
        self.fc2 = Dense(input_shape[-1], dtype=self.dtype_policy, name="fc2")
        self.fc1.build(input_shape)
        self.fc2.build(self._hidden_shape(input_shape))

    def _hidden_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.hidden_dim)

    def call(self, inputs: Tensor) -> Tensor:
        return self.fc2(backend.gelu(self.fc1(inputs)))

    def macs(self, input_shape: Shape) -> int:
        return macs(self.fc1, input_shape) + macs(self.fc2, self._hidden_shape(input_shape))


@keras.saving.register_keras_serializable("keras_spm")
class ConvolutionalMLP(MLP):
    """An MLP with a 3x3 depthwise convolution before its GELU.

    The zero padding of the convolution gives PVT v2 its position information.

    Args:
        hidden_dim: int, channels between the two dense layers.
        linear_attention: bool, whether a ReLU precedes the convolution.

    Input and output: (batch, height, width, channels).

    Reference:
        Wang et al., PVT v2, arXiv 2106.13797, section 3.3.
    """

    config_arguments = ("hidden_dim", "linear_attention")

    def __init__(self, hidden_dim: int, linear_attention: bool = False, **kwargs: Any) -> None:
        super().__init__(hidden_dim, **kwargs)
        self.linear_attention = check_bool("linear_attention", linear_attention)
        self.depthwise = DepthwiseConv2D(3, dtype=self.dtype_policy, name="depthwise_3x3")

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        build_once(self.depthwise, self._hidden_shape(input_shape))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        sizes = (*inputs.shape[1:-1], self.hidden_dim)
        return backend.chunked_by_image(self._transform, inputs, sizes=sizes, training=training)

    def _transform(self, inputs: Tensor) -> Tensor:
        hidden = self.fc1(inputs)
        if self.linear_attention:
            hidden = ops.relu(hidden)
        return self.fc2(backend.gelu(self.depthwise(hidden)))

    def macs(self, input_shape: Shape) -> int:
        return super().macs(input_shape) + macs(self.depthwise, self._hidden_shape(input_shape))
