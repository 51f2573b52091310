"""A convolution with batch normalization and ReLU."""

from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_bool, check_integer, check_odd
from keras_spm.layers.batch_normalization import BatchNormalization, refuse_training
from keras_spm.layers.composite import CompositeLayer
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class ConvolutionBlock(CompositeLayer):
    """A convolution without bias that keeps the map's size, batch normalization, and ReLU.

    Args:
        filters: int, channels of the output.
        kernel_size: odd int.
        fused: bool, whether batch normalization is folded away, see `keras_spm.fuse`.

    Input: (batch, height, width, channels). Output: (batch, height, width, filters).

    Raises:
        ValueError: for a fused block in training.
    """

    config_arguments = ("filters", "kernel_size", "fused")

    def __init__(self, filters: int, kernel_size: int, fused: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = check_integer("filters", filters)
        self.kernel_size = check_odd("kernel_size", kernel_size)
        self.fused = check_bool("fused", fused)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.convolution = Conv2D(
            self.filters,
            self.kernel_size,
            padding=self.kernel_size // 2,
            use_bias=self.fused,
            dtype=self.dtype_policy,
            name="convolution",
        )
        # Maps may be smaller than the kernel.
        self.convolution.build((None, None, None, input_shape[-1]))
        if not self.fused:
            self.norm = BatchNormalization(dtype=self.dtype_policy, name="norm")
            self.norm.build((None, None, None, self.filters))

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        refuse_training(self, training)
        outputs = self.convolution(inputs)
        if not self.fused:
            outputs = self.norm(outputs, training=training)
        return ops.relu(outputs)

    def fold(self, original: "ConvolutionBlock") -> None:
        """Assigns the variables of the block whose fused form this is."""
        scale, offset = original.norm.affine()
        kernel = ops.convert_to_numpy(original.convolution.kernel)
        self.convolution.assign_kernel(kernel * scale)
        self.convolution.bias.assign(offset)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.filters)

    def macs(self, input_shape: Shape) -> int:
        return macs(self.convolution, input_shape)
