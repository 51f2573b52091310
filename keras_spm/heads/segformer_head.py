"""SegFormer's head: a decoder of dense layers."""

from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_bool, check_integer, check_rate
from keras_spm.backend.resizing import resize_bilinear
from keras_spm.heads.convolution_block import ConvolutionBlock
from keras_spm.heads.feature_pyramid import sorted_levels
from keras_spm.heads.head import Head
from keras_spm.layers.dense import Dense
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


class SegFormerHead(Head):
    """Class logits from a backbone's pyramid, at the stride of its finest level.

    A dense layer per level gives all levels the same number of channels. They are upsampled
    bilinearly to the size of the finest level and concatenated, the coarsest first. A 1x1
    convolution with batch normalization and ReLU, dropout and another 1x1 convolution follow.

    Args:
        num_classes: int; `None` to let the task set it.
        channels: int, of every level and of the first convolution. The paper has 256 for MiT
            b0 and b1, and 768 for the larger variants.
        dropout: float in [0, 1), dropout rate.
        fused: bool, whether batch normalization is folded away, see `keras_spm.fuse`.

    Input: {"P2": (batch, height, width, any channels), …}. Output: (batch, height of P2, width
    of P2, num_classes), float32 under every dtype policy.

    Example:

    >>> logits = keras_spm.heads.SegFormerHead(150)(backbone.pyramid_outputs)  # doctest: +SKIP

    Reference:
        Xie et al., SegFormer, arXiv 2105.15203, section 3.2.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        channels: int = 256,
        dropout: float = 0.1,
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.channels = check_integer("channels", channels)
        self.dropout = check_rate("dropout", dropout)
        self.fused = check_bool("fused", fused)

    def build(self, input_shape: dict[str, Shape]) -> None:
        check_integer("num_classes", self.num_classes)
        dtype = self.dtype_policy
        self.projections = {
            level: Dense(self.channels, dtype=dtype, name=f"projection_{level}")
            for level in sorted_levels(input_shape)
        }
        for level, projection in self.projections.items():
            projection.build(input_shape[level])
        self.fusion = ConvolutionBlock(self.channels, 1, self.fused, dtype=dtype, name="fusion")
        self.fusion.build((None, None, None, len(self.projections) * self.channels))
        self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=dtype, name="dropout")
        # float32 under every policy: half precision is too coarse for the loss.
        self.classifier = Dense(self.num_classes, dtype="float32", name="classifier")
        self.classifier.build((None, None, None, self.channels))

    def call(self, inputs: dict[str, Tensor], training: bool | None = False) -> Tensor:
        finest, *coarser = (layer(inputs[level]) for level, layer in self.projections.items())
        size = ops.shape(finest)[1:3]
        maps = [finest, *(resize_bilinear(each, size) for each in coarser)]
        maps = self.fusion(ops.concatenate(maps[::-1], axis=-1), training=training)
        return self.classifier(self.dropout_layer(maps, training=training))

    def class_predictors(self) -> list[keras.layers.Layer]:
        return [self.classifier]

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Shape:
        return (*input_shape[sorted_levels(input_shape)[0]][:-1], self.num_classes)

    def macs(self, input_shape: dict[str, Shape]) -> int:
        finest, *_ = self.projections
        size = input_shape[finest][:-1]
        return (
            sum(macs(layer, input_shape[level]) for level, layer in self.projections.items())
            + macs(self.fusion, (*size, len(self.projections) * self.channels))
            + macs(self.classifier, (*size, self.channels))
        )

    def get_config(self) -> dict[str, Any]:
        config = {"channels": self.channels, "dropout": self.dropout, "fused": self.fused}
        return {**super().get_config(), **config}
