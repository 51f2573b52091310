"""Multi-Scale Aggregation, the first step of Stepwise Patch Merging."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm import backend
from keras_spm.arguments import argument_error, check_bool, check_each, check_integer, check_odd
from keras_spm.layers.batch_normalization import BatchNormalization, refuse_training
from keras_spm.layers.composite import CompositeLayer, build_once
from keras_spm.layers.convolution import DepthwiseConv2D
from keras_spm.layers.dense import Dense
from keras_spm.layers.initializers import Normal, conv_initializer
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class MultiScaleAggregation(CompositeLayer):
    """Widens the channels of each position with context from several scales.

    The channels are divided into one equal split per kernel size. Each split is convolved
    depthwise with its own kernel. Group l of a grouped linear map then mixes channel l of
    every split and expands it. Batch normalization, exact GELU and a linear map to
    `output_dim` follow.

    Args:
        output_dim: int, channels of the output.
        kernel_sizes: distinct odd ints, one per split. Their number divides the input
            channels.
        expansion: int, ratio of the grouped map's outputs to its inputs.
        fused: bool, set by `keras_spm.fuse`: the normalization and the biases of the
            convolutions are folded into the grouped map, and the convolutions may be one.

    Input: (batch, height, width, channels). Output: (batch, height, width, output_dim).

    Raises:
        ValueError: if the number of kernel sizes does not divide the channels, or a fused
            layer is trained.

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
    """

    config_arguments = ("output_dim", "kernel_sizes", "expansion", "fused")

    def __init__(
        self,
        output_dim: int,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        expansion: int = 2,
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_dim = check_integer("output_dim", output_dim)
        self.kernel_sizes = check_each("kernel_sizes", kernel_sizes, check_odd)
        self.expansion = check_integer("expansion", expansion)
        self.fused = check_bool("fused", fused)
        if len(set(self.kernel_sizes)) != len(self.kernel_sizes):
            raise argument_error("kernel_sizes", "distinct", self.kernel_sizes)
        dtype = self.dtype_policy
        self.depthwise = [
            DepthwiseConv2D(size, use_bias=not fused, dtype=dtype, name=f"depthwise_{size}x{size}")
            for size in self.kernel_sizes
        ]
        if not fused:
            self.norm = BatchNormalization(dtype=dtype, name="norm")
        self.projection = Dense(
            self.output_dim, kernel_initializer=conv_initializer(), dtype=dtype, name="projection"
        )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels, scales = input_shape[-1], len(self.kernel_sizes)
        if channels % scales:
            raise ValueError(
                f"The number of `kernel_sizes` must divide the input channels. Received: "
                f"kernel_sizes={self.kernel_sizes} ({scales}), channels={channels}"
            )
        for depthwise in self.depthwise:
            build_once(depthwise, self._split_shape(input_shape))
        # Entry (k, l, j) maps channel l of split k to output j of group l. In this layout
        # the splits need no shuffle.
        self.grouped_kernel = self.add_weight(
            name="grouped_kernel",
            shape=(scales, channels // scales, scales * self.expansion),
            # The formula for convolutions; the fan-out is the outputs of one group.
            initializer=Normal(math.sqrt(2 / (scales * self.expansion))),
        )
        self.grouped_bias = self.add_weight(
            name="grouped_bias", shape=(channels * self.expansion,), initializer="zeros"
        )
        if not self.fused:
            build_once(self.norm, self._expanded_shape(input_shape))
        build_once(self.projection, self._expanded_shape(input_shape))

    def _split_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], input_shape[-1] // len(self.kernel_sizes))

    def _expanded_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], input_shape[-1] * self.expansion)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        refuse_training(self, training)
        kernel = ops.convert_to_tensor(self.grouped_kernel)
        bias = ops.convert_to_tensor(self.grouped_bias)
        uses_batch = not self.fused and self.norm.uses_batch_statistics(training)
        maps = self._convolve(inputs)
        if uses_batch:
            maps = self.norm(backend.grouped_pointwise(maps, kernel, bias), training=True)
            return self._project(maps)
        if not self.fused:
            # Small kernels instead of the widest map.
            kernel, bias = _folded(kernel, bias, *self.norm.inference_affine())

        def expand_and_project(maps):
            return self._project(backend.grouped_pointwise(maps, kernel, bias))

        sizes = (*inputs.shape[1:], self.expansion)
        return backend.chunked_by_image(expand_and_project, maps, sizes=sizes, training=training)

    def _project(self, maps):
        return self.projection(backend.gelu(maps))

    def _convolve(self, inputs: Tensor) -> Tensor:
        """Returns the convolved splits, (batch, height, width, scales, channels / scales)."""
        if self.fused and backend.depthwise_scales_are_faster():
            kernels = [ops.convert_to_tensor(depthwise.kernel) for depthwise in self.depthwise]
            return backend.depthwise_scales(inputs, kernels)
        splits = ops.split(inputs, len(self.kernel_sizes), axis=-1)
        splits = [layer(split) for layer, split in zip(self.depthwise, splits, strict=True)]
        return ops.stack(splits, axis=3)

    def fold(self, original: "MultiScaleAggregation") -> None:
        """Sets the variables of this fused layer from the unfused `original`."""
        for own, depthwise in zip(self.depthwise, original.depthwise, strict=True):
            own.set_weights(depthwise.get_weights()[:1])
        self.projection.set_weights(original.projection.get_weights())
        biases = [depthwise.bias for depthwise in original.depthwise]
        kernel, bias, *biases = (
            ops.convert_to_numpy(variable).astype("float64")
            for variable in (original.grouped_kernel, original.grouped_bias, *biases)
        )
        scale, offset = original.norm.affine()
        # The convolutions' biases are the same at every position, so each group adds a constant.
        bias = bias + np.einsum("kl,klj->lj", np.stack(biases), kernel).ravel()
        self.grouped_kernel.assign(kernel * scale.reshape(kernel.shape[1:]))
        self.grouped_bias.assign(bias * scale + offset)

    @property
    def zero_gradient_variables(self) -> list[keras.Variable]:
        """Biases that the batch mean cancels, so that their gradient is zero in training."""
        if self.fused:
            return []
        return [*(depthwise.bias for depthwise in self.depthwise), self.grouped_bias]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.output_dim)

    def macs(self, input_shape: Shape) -> int:
        split_shape = self._split_shape(input_shape)
        depthwise = sum(macs(layer, split_shape) for layer in self.depthwise)
        grouped = math.prod(input_shape[1:]) * len(self.kernel_sizes) * self.expansion
        return depthwise + grouped + macs(self.projection, self._expanded_shape(input_shape))


def _folded(kernel, bias, scale, offset):
    """Returns kernel and bias of a grouped map whose outputs are multiplied and shifted."""
    wide_kernel, wide_bias = (ops.cast(each, scale.dtype) for each in (kernel, bias))
    wide_kernel = wide_kernel * ops.reshape(scale, kernel.shape[1:])
    wide_bias = wide_bias * scale + offset
    return ops.cast(wide_kernel, kernel.dtype), ops.cast(wide_bias, bias.dtype)
