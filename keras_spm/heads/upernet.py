"""UPerNet: pyramid pooling, a feature pyramid network, and an auxiliary head for training."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_bool, check_each, check_integer, check_number, check_rate
from keras_spm.backend.resizing import resize_bilinear
from keras_spm.heads.convolution_block import ConvolutionBlock
from keras_spm.heads.feature_pyramid import sorted_levels
from keras_spm.heads.head import Head
from keras_spm.layers.dense import Dense
from keras_spm.layers.macs import macs
from keras_spm.layers.spatial_reduction_attention import adaptive_average_pooling
from keras_spm.types import Shape, Tensor

_AUXILIARY_LEVEL = "P4"


class UPerNet(Head):
    """Class logits from a backbone's pyramid, at the stride of its finest level.

    The coarsest level is averaged over grids of several sizes (pyramid pooling); each grid gets
    a 1x1 convolution and is upsampled, and a 3x3 convolution fuses all with the level itself.
    From there a feature pyramid network goes down to the finest level, with bilinear upsampling.
    All its levels are upsampled to the finest one, concatenated, and fused by a 3x3 convolution;
    dropout and a 1x1 convolution follow. Every convolution but the last has batch normalization
    and ReLU.

    In training, an auxiliary head predicts the classes from P4, too: `SemanticSegmenter` adds
    `auxiliary_weight` times its loss.

    Args:
        num_classes: int; `None` to let the task set it.
        channels: int, of all convolutions.
        pool_scales: ints, height and width of the grids.
        auxiliary_channels: int, of the auxiliary head's 3x3 convolution.
        auxiliary_weight: float, weight of the auxiliary loss; 0 for no auxiliary head.
        dropout: float in [0, 1), dropout rate of both heads.
        fused: bool, whether batch normalization is folded away, see `keras_spm.fuse`.

    Input: {"P2": (batch, height, width, any channels), …}. Output: (batch, height of P2, width
    of P2, num_classes), float32 under every dtype policy.

    Example:

    >>> backbone = keras_spm.Swin.from_preset("tiny", pyramid_norms=True)  # doctest: +SKIP
    >>> decoder = keras_spm.heads.UPerNet()
    >>> model = keras_spm.SemanticSegmenter(backbone, 150, decoder)  # doctest: +SKIP

    Reference:
        Xiao et al., Unified Perceptual Parsing for Scene Understanding, arXiv 1807.10221, with
        the auxiliary head of mmsegmentation.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        auxiliary_channels: int = 256,
        auxiliary_weight: float = 0.4,
        dropout: float = 0.1,
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.channels = check_integer("channels", channels)
        self.pool_scales = check_each("pool_scales", pool_scales, check_integer)
        self.auxiliary_channels = check_integer("auxiliary_channels", auxiliary_channels)
        self.auxiliary_weight = check_number("auxiliary_weight", auxiliary_weight)
        self.dropout = check_rate("dropout", dropout)
        self.fused = check_bool("fused", fused)
        self.auxiliary_head = None

    def build(self, input_shape: dict[str, Shape]) -> None:
        check_integer("num_classes", self.num_classes)
        *finer, coarsest = sorted_levels(input_shape)
        channels = {level: shape[-1] for level, shape in input_shape.items()}
        self.pooling = [
            self._block(f"pooling_{number}", 1, channels[coarsest])
            for number in range(1, len(self.pool_scales) + 1)
        ]
        pooled_channels = channels[coarsest] + len(self.pool_scales) * self.channels
        self.bottleneck = self._block("bottleneck", 3, pooled_channels)
        self.lateral_convs = {
            level: self._block(f"lateral_{level}", 1, channels[level]) for level in finer
        }
        self.output_convs = {
            level: self._block(f"output_{level}", 3, self.channels) for level in finer
        }
        self.fusion = self._block("fusion", 3, len(channels) * self.channels)
        self.dropout_layer, self.classifier = _classifier(self, self.channels)
        if self.auxiliary_weight:
            self.auxiliary_head = AuxiliaryHead(
                self.num_classes,
                self.auxiliary_channels,
                self.dropout,
                self.fused,
                dtype=self.dtype_policy,
                name="auxiliary_head",
            )
            self.auxiliary_head.build(input_shape)

    def _block(self, name, kernel_size, input_channels):
        block = ConvolutionBlock(
            self.channels, kernel_size, self.fused, dtype=self.dtype_policy, name=name
        )
        block.build((None, None, None, input_channels))
        return block

    def call(self, inputs: dict[str, Tensor], training: bool | None = False) -> Tensor:
        *_, coarsest = sorted_levels(inputs)
        maps = {
            level: conv(inputs[level], training=training)
            for level, conv in self.lateral_convs.items()
        }
        maps[coarsest] = self._pool(inputs[coarsest], training)
        for finer, coarser in reversed(list(itertools.pairwise(maps))):
            maps[finer] = maps[finer] + resize_bilinear(maps[coarser], _size(maps[finer]))
        for level, conv in self.output_convs.items():
            maps[level] = conv(maps[level], training=training)
        finest, *coarser = maps.values()
        levels = [finest, *(resize_bilinear(each, _size(finest)) for each in coarser)]
        outputs = self.fusion(ops.concatenate(levels, axis=-1), training=training)
        return self.classifier(self.dropout_layer(outputs, training=training))

    def _pool(self, maps, training):
        branches = [maps]
        for scale, conv in zip(self.pool_scales, self.pooling, strict=True):
            # float32: means of large maps lose digits in half precision.
            pooled = adaptive_average_pooling(ops.cast(maps, "float32"), scale)
            pooled = conv(pooled, training=training)
            branches.append(resize_bilinear(pooled, _size(maps)))
        return self.bottleneck(ops.concatenate(branches, axis=-1), training=training)

    def class_predictors(self) -> list[keras.layers.Layer]:
        heads = [self] if self.auxiliary_head is None else [self, self.auxiliary_head]
        return [head.classifier for head in heads]

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Shape:
        return (*input_shape[sorted_levels(input_shape)[0]][:-1], self.num_classes)

    def macs(self, input_shape: dict[str, Shape]) -> int:
        """Counts inference, without the auxiliary head."""
        finest, *_, coarsest = sorted_levels(input_shape)
        batch, *size, channels = input_shape[coarsest]
        total = macs(self.bottleneck, (batch, *size, channels + len(self.pooling) * self.channels))
        for scale, conv in zip(self.pool_scales, self.pooling, strict=True):
            total += macs(conv, (batch, scale, scale, channels))
        for level, conv in self.lateral_convs.items():
            total += macs(conv, input_shape[level])
            total += macs(self.output_convs[level], (*input_shape[level][:-1], self.channels))
        size = input_shape[finest][:-1]
        total += macs(self.fusion, (*size, len(input_shape) * self.channels))
        return total + macs(self.classifier, (*size, self.channels))

    def get_config(self) -> dict[str, Any]:
        config = {
            "channels": self.channels,
            "pool_scales": self.pool_scales,
            "auxiliary_channels": self.auxiliary_channels,
            "auxiliary_weight": self.auxiliary_weight,
            "dropout": self.dropout,
            "fused": self.fused,
        }
        return {**super().get_config(), **config}


class AuxiliaryHead(keras.layers.Layer):
    """Class logits from P4: a 3x3 convolution, dropout and a 1x1 convolution.

    The arguments are those of `UPerNet`. Input: as of `UPerNet`. Output: (batch, height of P4,
    width of P4, num_classes).
    """

    def __init__(
        self, num_classes: int, channels: int, dropout: float, fused: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.dropout = num_classes, dropout
        self.convolution = ConvolutionBlock(
            channels, 3, fused, dtype=self.dtype_policy, name="convolution"
        )

    def build(self, input_shape: dict[str, Shape]) -> None:
        self.convolution.build((None, None, None, input_shape[_AUXILIARY_LEVEL][-1]))
        self.dropout_layer, self.classifier = _classifier(self, self.convolution.filters)

    def call(self, inputs: dict[str, Tensor], training: bool | None = False) -> Tensor:
        maps = self.convolution(inputs[_AUXILIARY_LEVEL], training=training)
        return self.classifier(self.dropout_layer(maps, training=training))

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Shape:
        return (*input_shape[_AUXILIARY_LEVEL][:-1], self.num_classes)


def _classifier(head, channels):
    """Returns the dropout and the classifier of a head."""
    dropout = keras.layers.Dropout(head.dropout, dtype=head.dtype_policy, name="dropout")
    # float32 under every policy: half precision is too coarse for the loss.
    classifier = Dense(head.num_classes, dtype="float32", name="classifier")
    classifier.build((None, None, None, channels))
    return dropout, classifier


def _size(maps):
    return ops.shape(maps)[1:3]
