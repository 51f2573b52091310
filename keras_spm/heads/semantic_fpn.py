"""The head of Semantic FPN."""

import keras
from keras import ops

from keras_spm.backend.resizing import resize_bilinear
from keras_spm.layers.batch_normalization import BatchNormalization
from keras_spm.layers.batch_normalization import refuse_training
from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.macs import macs


@keras.saving.register_keras_serializable("keras_spm")
class SemanticFPNHead(keras.layers.Layer):
    """Class logits from a feature pyramid, at the stride of its finest level.

    Every level goes through 3x3 convolutions (each with batch normalization and ReLU) and
    is enlarged bilinearly to the next finer level's size after each, until it has the
    finest one's; the finest goes through one convolution. The sum of all goes through
    dropout and a 1x1 convolution.

    Args:
        num_classes: int.
        channels: int, of the convolutions.
        dropout: float, the rate.
        fused: bool, whether the batch normalizations are folded into the convolutions, see
            `keras_spm.fuse`.

    Input: {"P2": (batch, height, width, any channels), …}, each level half the size of the
    one before, rounded up or down. Output: (batch, height of P2, width of P2, num_classes),
    float32 under every policy.

    Raises:
        ValueError: for a fused head in training.

    Reference:
        Kirillov et al., Panoptic Feature Pyramid Networks, arXiv 1901.02446, section 3.1,
        with batch normalization as in the PVT authors' code (whose dropout takes whole
        channels; here it takes single values).
    """

    def __init__(self, num_classes, channels=128, dropout=0.1, fused=False, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.channels = channels
        self.dropout = dropout
        self.fused = fused

    def build(self, input_shape):
        self.levels = sorted(input_shape)
        # From the finest level on, 1, 1, 2, 3, … convolutions.
        self.branches = {
            level: [
                self._block(f"{level}_{number + 1}", input_shape[level], first=number == 0)
                for number in range(max(index, 1))
            ]
            for index, level in enumerate(self.levels)
        }
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )
        # float32 under every policy: half a digit of a logit is too coarse for a loss.
        self.classifier = keras.layers.Dense(
            self.num_classes,
            kernel_initializer=dense_initializer(),
            dtype="float32",
            name="classifier",
        )
        finest = self._shape(input_shape[self.levels[0]])
        self.dropout_layer.build(finest)
        self.classifier.build(finest)

    def _block(self, name, input_shape, first):
        """Convolution and normalization, which is None where it is folded."""
        convolution = keras.layers.Conv2D(
            self.channels,
            3,
            padding="same",
            use_bias=self.fused,
            data_format="channels_last",
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name=f"{name}_convolution",
        )
        convolution.build((None, None, None, input_shape[-1] if first else self.channels))
        if self.fused:
            return convolution, None
        norm = BatchNormalization(dtype=self.dtype_policy, name=f"{name}_norm")
        norm.build((None, None, None, self.channels))
        return convolution, norm

    def call(self, inputs, training=False):
        refuse_training(self, training)
        sizes = [ops.shape(inputs[level])[1:3] for level in self.levels]
        total = 0
        for index, level in enumerate(self.levels):
            maps = inputs[level]
            for number, (convolution, norm) in enumerate(self.branches[level], start=1):
                maps = convolution(maps)
                if not self.fused:
                    maps = norm(maps, training=training)
                maps = ops.relu(maps)
                if index:
                    maps = resize_bilinear(maps, sizes[index - number])
            total = total + maps
        return self.classifier(self.dropout_layer(total, training=training))

    def fold(self, original):
        """Takes over the variables of the head that this one is the fused form of."""
        for level, branch in self.branches.items():
            for (own, _), (convolution, norm) in zip(branch, original.branches[level], strict=True):
                scale, offset = norm.affine()
                own.kernel.assign(ops.convert_to_numpy(convolution.kernel) * scale)
                own.bias.assign(offset)
        self.classifier.set_weights(original.classifier.get_weights())

    def _shape(self, shape):
        return (*shape[:-1], self.channels)

    def compute_output_shape(self, input_shape):
        return (*input_shape[min(input_shape)][:-1], self.num_classes)

    def macs(self, input_shape):
        """Returns the MACs for {level: shape}, as of one image."""
        total = 0
        for index, level in enumerate(self.levels):
            shape = input_shape[level]
            for number, (convolution, _) in enumerate(self.branches[level], start=1):
                total += macs(convolution, shape)
                shape = self._shape(input_shape[self.levels[max(index - number, 0)]])
        return total + macs(self.classifier, self._shape(input_shape[self.levels[0]]))

    def get_config(self):
        config = {
            "num_classes": self.num_classes,
            "channels": self.channels,
            "dropout": self.dropout,
            "fused": self.fused,
        }
        return {**super().get_config(), **config}
