"""Stepwise Patch Merging."""

import keras

from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation


@keras.saving.register_keras_serializable("keras_spm")
class StepwisePatchMerging(keras.layers.Layer):
    """Halves a map and widens its channels in two steps instead of one convolution.

    First `MultiScaleAggregation` widens the channels at full resolution from
    surroundings of several sizes, then `GuidedLocalEnhancement` merges each 2x2
    window by attention. A drop-in for the patch merging of any hierarchical network.

    Args:
        output_dim: int, channels of the output, a multiple of `num_heads`.
        kernel_sizes: odd ints, the scales; their number divides the input channels.
        expansion: int, inner width of the aggregation over its input's.
        num_heads: int, attention heads within a window.
        guide_kernel_size: odd int, kernel of the guide's convolution.
        fused: bool, whether batch normalizations are folded away, see `keras_spm.fuse`.

    Input: (batch, height, width, channels), height and width at least 2. Output:
    (batch, ceil(height / 2), ceil(width / 2), output_dim).

    Raises:
        ValueError: where channels are not divisible as said above, and for a fused layer
            in training.

    Example:

    >>> merging = keras_spm.layers.StepwisePatchMerging(128)
    >>> merging(np.zeros((2, 56, 56, 64))).shape
    (2, 28, 28, 128)

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
    """

    def __init__(
        self,
        output_dim,
        kernel_sizes=(3, 5, 7, 9),
        expansion=2,
        num_heads=8,
        guide_kernel_size=7,
        fused=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if output_dim % num_heads:
            raise ValueError(
                "`num_heads` must divide `output_dim`. "
                f"Received: num_heads={num_heads}, output_dim={output_dim}"
            )
        self.output_dim = output_dim
        self.kernel_sizes = tuple(kernel_sizes)
        self.expansion = expansion
        self.num_heads = num_heads
        self.guide_kernel_size = guide_kernel_size
        self.fused = fused
        self.multi_scale_aggregation = MultiScaleAggregation(
            output_dim,
            kernel_sizes,
            expansion,
            fused,
            dtype=self.dtype_policy,
            name="multi_scale_aggregation",
        )
        self.guided_local_enhancement = GuidedLocalEnhancement(
            num_heads,
            guide_kernel_size,
            fused,
            dtype=self.dtype_policy,
            name="guided_local_enhancement",
        )

    def build(self, input_shape):
        if any(size is not None and size < 2 for size in input_shape[1:3]):
            raise ValueError(
                "Height and width of the map must be at least 2. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.multi_scale_aggregation.build(input_shape)
        self.guided_local_enhancement.build((*input_shape[:-1], self.output_dim))

    def call(self, inputs, training=False):
        maps = self.multi_scale_aggregation(inputs, training=training)
        return self.guided_local_enhancement(maps, training=training)

    @property
    def batch_normalizations(self):
        """The layers that keep running statistics."""
        parts = self.multi_scale_aggregation, self.guided_local_enhancement
        return [norm for part in parts for norm in part.batch_normalizations]

    @property
    def dead_in_training(self):
        """Variables whose true gradient is zero while batch statistics normalize."""
        return self.multi_scale_aggregation.dead_in_training

    def compute_output_shape(self, input_shape):
        shape = self.multi_scale_aggregation.compute_output_shape(input_shape)
        return self.guided_local_enhancement.compute_output_shape(shape)

    def macs(self, input_shape):
        aggregation = self.multi_scale_aggregation
        enhancement = self.guided_local_enhancement
        return aggregation.macs(input_shape) + enhancement.macs(
            aggregation.compute_output_shape(input_shape)
        )

    def get_config(self):
        config = {
            "output_dim": self.output_dim,
            "kernel_sizes": self.kernel_sizes,
            "expansion": self.expansion,
            "num_heads": self.num_heads,
            "guide_kernel_size": self.guide_kernel_size,
            "fused": self.fused,
        }
        return {**super().get_config(), **config}
