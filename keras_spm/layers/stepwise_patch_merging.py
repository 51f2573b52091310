"""Stepwise Patch Merging."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.arguments import check_bool, check_each, check_integer, check_odd
from keras_spm.layers.composite import CompositeLayer, build_once, check_num_heads
from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class StepwisePatchMerging(CompositeLayer):
    """Halves a map and widens its channels in two steps instead of one convolution.

    `MultiScaleAggregation` widens the channels at full resolution, with context from
    several scales. Then `GuidedLocalEnhancement` merges each 2x2 window by attention.

    Args:
        output_dim: int, channels of the output, a multiple of `num_heads`.
        kernel_sizes: odd ints, the scales. Their number divides the input channels.
        expansion: int, ratio of hidden to input channels in the aggregation.
        num_heads: int, attention heads within a window.
        guide_kernel_size: odd int, kernel size of the guide's convolution.
        fused: bool, set by `keras_spm.fuse`: batch normalizations are folded.

    Input: (batch, height, width, channels), height and width at least 2. Output:
    (batch, ceil(height / 2), ceil(width / 2), output_dim).

    Raises:
        ValueError: if channels are not divisible as described, the map is smaller than
            2x2, or a fused layer is trained.

    Example:
    >>> merging = keras_spm.layers.StepwisePatchMerging(128)
    >>> merging(np.zeros((2, 56, 56, 64))).shape
    (2, 28, 28, 128)

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
    """

    config_arguments = (
        "output_dim",
        "kernel_sizes",
        "expansion",
        "num_heads",
        "guide_kernel_size",
        "fused",
    )

    def __init__(
        self,
        output_dim: int,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        expansion: int = 2,
        num_heads: int = 8,
        guide_kernel_size: int = 7,
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_dim = check_integer("output_dim", output_dim)
        self.kernel_sizes = check_each("kernel_sizes", kernel_sizes, check_odd)
        self.expansion = check_integer("expansion", expansion)
        self.num_heads = check_integer("num_heads", num_heads)
        self.guide_kernel_size = check_odd("guide_kernel_size", guide_kernel_size)
        self.fused = check_bool("fused", fused)
        check_num_heads(self.num_heads, self.output_dim)
        dtype, name = self.dtype_policy, "multi_scale_aggregation"
        self.multi_scale_aggregation = MultiScaleAggregation(
            output_dim, kernel_sizes, expansion, fused, dtype=dtype, name=name
        )
        name = "guided_local_enhancement"
        self.guided_local_enhancement = GuidedLocalEnhancement(
            num_heads, guide_kernel_size, fused, dtype=dtype, name=name
        )

    @property
    def steps(self) -> list[keras.layers.Layer]:
        """The two steps, in their order."""
        return [self.multi_scale_aggregation, self.guided_local_enhancement]

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if any(size is not None and size < 2 for size in input_shape[1:3]):
            raise ValueError(
                "Height and width of the map must be at least 2. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        build_once(self.multi_scale_aggregation, input_shape)
        build_once(self.guided_local_enhancement, (*input_shape[:-1], self.output_dim))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        maps = self.multi_scale_aggregation(inputs, training=training)
        return self.guided_local_enhancement(maps, training=training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = self.multi_scale_aggregation.compute_output_shape(input_shape)
        return self.guided_local_enhancement.compute_output_shape(shape)

    def macs(self, input_shape: Shape) -> int:
        shape = self.multi_scale_aggregation.compute_output_shape(input_shape)
        aggregation = self.multi_scale_aggregation.macs(input_shape)
        return aggregation + self.guided_local_enhancement.macs(shape)
