"""Multi-Scale Aggregation, the first step of Stepwise Patch Merging."""

import math

import keras
import numpy as np
from keras import ops

from keras_spm import backend
from keras_spm.layers.batch_normalization import BatchNormalization
from keras_spm.layers.batch_normalization import refuse_training
from keras_spm.layers.dense import Dense
from keras_spm.layers.depthwise_convolution import DepthwiseConv2D
from keras_spm.layers.initializers import Normal
from keras_spm.layers.initializers import conv_initializer
from keras_spm.layers.macs import macs


@keras.saving.register_keras_serializable("keras_spm")
class MultiScaleAggregation(keras.layers.Layer):
    """Widens every token's channels from its surroundings at several scales.

    The channels are split into one equal run per kernel size, and each run is
    convolved depthwise with its own kernel. Group l of a grouped linear map then
    mixes channel l of every run and expands it; batch normalization, exact GELU and a
    linear map to `output_dim` follow. The map's size stays.

    The biases before the batch normalization have no effect in training (the batch
    mean takes them away), so their true gradient there is zero; `dead_in_training`
    lists them.

    Args:
        output_dim: int, channels of the output.
        kernel_sizes: odd ints, one per run; their number divides the input channels.
        expansion: int, by which the grouped map multiplies the channels.
        fused: bool, whether the normalization and the biases of the convolutions are
            folded into the grouped map, and the convolutions computed as one where that
            is faster, see `keras_spm.fuse`.

    Input: (batch, height, width, channels). Output: (batch, height, width,
    output_dim).

    Raises:
        ValueError: where the number of kernel sizes does not divide the channels, and
            for a fused layer in training.

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963, section "Multi-Scale
        Aggregation".
    """

    def __init__(self, output_dim, kernel_sizes=(3, 5, 7, 9), expansion=2, fused=False, **kwargs):
        super().__init__(**kwargs)
        if len(set(kernel_sizes)) != len(kernel_sizes) or not kernel_sizes:
            raise ValueError(
                f"`kernel_sizes` must be distinct. Received: kernel_sizes={kernel_sizes}"
            )
        self.output_dim = output_dim
        self.kernel_sizes = tuple(kernel_sizes)
        self.expansion = expansion
        self.fused = fused
        self.depthwise = [
            DepthwiseConv2D(
                size, use_bias=not fused, dtype=self.dtype_policy, name=f"depthwise_{size}x{size}"
            )
            for size in self.kernel_sizes
        ]
        if not fused:
            self.norm = BatchNormalization(dtype=self.dtype_policy, name="norm")
        self.projection = Dense(
            output_dim,
            kernel_initializer=conv_initializer(),
            dtype=self.dtype_policy,
            name="projection",
        )

    def build(self, input_shape):
        channels, scales = input_shape[-1], len(self.kernel_sizes)
        if channels % scales:
            raise ValueError(
                f"The number of `kernel_sizes` must divide the input channels. Received: "
                f"kernel_sizes={self.kernel_sizes} ({scales}), channels={channels}"
            )
        run_shape = (*input_shape[:-1], channels // scales)
        expanded_shape = (*input_shape[:-1], channels * self.expansion)
        for depthwise in self.depthwise:
            depthwise.build(run_shape)
        # Entry (k, l, j): from channel l of run k to output j of group l. Kept this
        # way round, the runs need no shuffle before they meet.
        self.grouped_kernel = self.add_weight(
            name="grouped_kernel",
            shape=(scales, channels // scales, scales * self.expansion),
            # Convolutions' formula; the fan-out are the outputs of one group.
            initializer=Normal(math.sqrt(2 / (scales * self.expansion))),
        )
        self.grouped_bias = self.add_weight(
            name="grouped_bias", shape=(channels * self.expansion,), initializer="zeros"
        )
        if not self.fused:
            self.norm.build(expanded_shape)
        self.projection.build(expanded_shape)

    def call(self, inputs, training=False):
        refuse_training(self, training)
        kernel = ops.convert_to_tensor(self.grouped_kernel)
        bias = ops.convert_to_tensor(self.grouped_bias)
        expanded = backend.grouped_pointwise(self._scales(inputs), kernel, bias)
        if not self.fused:
            expanded = self.norm(expanded, training=training)
        return self.projection(backend.gelu(expanded))

    def _scales(self, inputs):
        """Returns (batch, height, width, scales, run's channels): each run's convolution."""
        if self.fused and backend.depthwise_scales_are_faster():
            kernels = [ops.convert_to_tensor(depthwise.kernel) for depthwise in self.depthwise]
            return backend.depthwise_scales(inputs, kernels)
        runs = ops.split(inputs, len(self.kernel_sizes), axis=-1)
        runs = [depthwise(run) for depthwise, run in zip(self.depthwise, runs, strict=True)]
        return ops.stack(runs, axis=3)

    def fold(self, original):
        """Takes over the variables of the layer that this one is the fused form of."""
        for own, depthwise in zip(self.depthwise, original.depthwise, strict=True):
            own.set_weights(depthwise.get_weights()[:1])
        self.projection.set_weights(original.projection.get_weights())
        kernel, bias, *biases = (
            ops.convert_to_numpy(variable).astype("float64")
            for variable in (
                *(original.grouped_kernel, original.grouped_bias),
                *(depthwise.bias for depthwise in original.depthwise),
            )
        )
        scale, offset = original.norm.affine()
        # What the convolutions add, they add at every position: to each group the same.
        bias = bias + np.einsum("kl,klj->lj", np.stack(biases), kernel).ravel()
        self.grouped_kernel.assign(kernel * scale.reshape(kernel.shape[1:]))
        self.grouped_bias.assign(bias * scale + offset)

    @property
    def batch_normalizations(self):
        """The layers that keep running statistics."""
        return [] if self.fused else [self.norm]

    @property
    def dead_in_training(self):
        """Variables whose true gradient is zero while batch statistics normalize."""
        if self.fused:
            return []
        return [*(depthwise.bias for depthwise in self.depthwise), self.grouped_bias]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.output_dim)

    def macs(self, input_shape):
        _, height, width, channels = input_shape
        scales = len(self.kernel_sizes)
        run_shape = (*input_shape[:-1], channels // scales)
        expanded_shape = (*input_shape[:-1], channels * self.expansion)
        grouped = height * width * channels * scales * self.expansion
        return (
            sum(macs(depthwise, run_shape) for depthwise in self.depthwise)
            + grouped
            + macs(self.projection, expanded_shape)
        )

    def get_config(self):
        config = {
            "output_dim": self.output_dim,
            "kernel_sizes": self.kernel_sizes,
            "expansion": self.expansion,
            "fused": self.fused,
        }
        return {**super().get_config(), **config}
