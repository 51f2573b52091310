"""Semantic FPN: a feature pyramid network and a light segmentation head."""

from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_bool, check_integer, check_rate
from keras_spm.backend.resizing import resize_bilinear
from keras_spm.heads.feature_pyramid import FeaturePyramid, sorted_levels
from keras_spm.heads.head import Head
from keras_spm.layers.batch_normalization import BatchNormalization, refuse_training
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.dense import Dense
from keras_spm.layers.initializers import conv_initializer
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


class SemanticFPN(Head):
    """Class logits from a backbone's pyramid, at the stride of its finest level.

    A `FeaturePyramid`, then, for every level, 3x3 convolutions (each with batch
    normalization and ReLU) and bilinear upsampling by one level after each, until the size
    of the finest level is reached; the finest level has one convolution. The sum of all
    levels goes through dropout and a 1x1 convolution.

    Args:
        num_classes: int; `None` to let the task set it.
        pyramid_channels: int, of the feature pyramid network.
        channels: int, of the convolutions after it.
        dropout: float in [0, 1), dropout rate.
        fused: bool, whether batch normalization is folded away, see `keras_spm.fuse`.

    Input: as of `FeaturePyramid`. Output: (batch, height of P2, width of P2, num_classes),
    float32 under every dtype policy.

    Raises:
        ValueError: for a fused head in training.

    Example:

    >>> logits = keras_spm.heads.SemanticFPN(21)(backbone.pyramid_outputs)  # doctest: +SKIP

    Reference:
        Kirillov et al., Panoptic Feature Pyramid Networks, arXiv 1901.02446, section 3.1,
        with batch normalization as in the code of PVT's authors.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        pyramid_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.1,
        fused: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.pyramid_channels = check_integer("pyramid_channels", pyramid_channels)
        self.channels = check_integer("channels", channels)
        self.dropout = check_rate("dropout", dropout)
        self.fused = check_bool("fused", fused)

    def build(self, input_shape: dict[str, Shape]) -> None:
        check_integer("num_classes", self.num_classes)
        self.feature_pyramid = FeaturePyramid(
            self.pyramid_channels, dtype=self.dtype_policy, name="feature_pyramid"
        )
        self.feature_pyramid.build(input_shape)
        # From the finest level on, 1, 1, 2, 3, … convolutions.
        self.branches = {
            level: [self._block(f"{level}_{number + 1}", number) for number in range(max(index, 1))]
            for index, level in enumerate(sorted_levels(input_shape))
        }
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )
        # float32 under every policy: half precision is too coarse for the loss.
        self.classifier = Dense(self.num_classes, dtype="float32", name="classifier")
        self.classifier.build((None, None, None, self.channels))

    def _block(self, name, number):
        """Returns a convolution and its batch normalization, `None` if it is folded."""
        conv = Conv2D(
            self.channels,
            3,
            padding="same",
            use_bias=self.fused,
            kernel_initializer=conv_initializer(),
            dtype=self.dtype_policy,
            name=f"{name}_convolution",
        )
        conv.build((None, None, None, self.channels if number else self.pyramid_channels))
        if self.fused:
            return conv, None
        norm = BatchNormalization(dtype=self.dtype_policy, name=f"{name}_norm")
        norm.build((None, None, None, self.channels))
        return conv, norm

    def call(self, inputs: dict[str, Tensor], training: bool | None = False) -> Tensor:
        refuse_training(self, training)
        pyramid = self.feature_pyramid(inputs)
        sizes = [ops.shape(pyramid[level])[1:3] for level in self.branches]
        total = 0
        for index, (level, blocks) in enumerate(self.branches.items()):
            maps = pyramid[level]
            for number, (conv, norm) in enumerate(blocks, start=1):
                maps = conv(maps)
                if not self.fused:
                    maps = norm(maps, training=training)
                maps = ops.relu(maps)
                if index:
                    maps = resize_bilinear(maps, sizes[index - number])
            total = total + maps
        return self.classifier(self.dropout_layer(total, training=training))

    def class_predictors(self) -> list[keras.layers.Layer]:
        return [self.classifier]

    def fold(self, original: "SemanticFPN") -> None:
        """Assigns the variables of the head whose fused form this is."""
        self.feature_pyramid.set_weights(original.feature_pyramid.get_weights())
        for level, blocks in self.branches.items():
            for (fused, _), (conv, norm) in zip(blocks, original.branches[level], strict=True):
                scale, offset = norm.affine()
                fused.assign_kernel(ops.convert_to_numpy(conv.kernel) * scale)
                fused.bias.assign(offset)
        self.classifier.set_weights(original.classifier.get_weights())

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> Shape:
        return (*input_shape[sorted_levels(input_shape)[0]][:-1], self.num_classes)

    def macs(self, input_shape: dict[str, Shape]) -> int:
        total = self.feature_pyramid.macs(input_shape)
        shapes = self.feature_pyramid.compute_output_shape(input_shape)
        sizes = [shapes[level][1:3] for level in self.branches]
        for index, (level, blocks) in enumerate(self.branches.items()):
            shape = shapes[level]
            for number, (conv, _) in enumerate(blocks, start=1):
                total += macs(conv, shape)
                shape = (None, *sizes[max(index - number, 0)], self.channels)
        return total + macs(self.classifier, (None, *sizes[0], self.channels))

    def get_config(self) -> dict[str, Any]:
        config = {
            "pyramid_channels": self.pyramid_channels,
            "channels": self.channels,
            "dropout": self.dropout,
            "fused": self.fused,
        }
        return {**super().get_config(), **config}
