"""Batch normalization with PyTorch's running variance."""

import keras
import numpy as np
from keras import ops

from keras_spm import backend


@keras.saving.register_keras_serializable("keras_spm")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` whose statistics run as PyTorch's do.

    Two differences: the defaults are PyTorch's (epsilon 1e-5, momentum 0.9 in
    Keras's sense), and the running variance takes the unbiased variance of the
    batch, `n / (n - 1)` times the one that normalizes. A batch with a single value
    per channel has no such variance: its biased one, zero, is taken.

    Statistics are computed in float32 under every dtype policy. A frozen layer
    (`trainable = False`) stays in evaluation, as in Keras.

    Args:
        momentum: float, the share of the old statistic that stays.
        epsilon: float, added to the variance.
        **kwargs: the initializers and regularizers of Keras's layer. The last axis is
            normalized.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        if self.axis != -1 or self.renorm or self.synchronized or not (self.center and self.scale):
            raise ValueError(
                "`axis` must be -1, `center` and `scale` True, `renorm` and `synchronized` False. "
                f"Received: axis={self.axis}, center={self.center}, scale={self.scale}, "
                f"renorm={self.renorm}, synchronized={self.synchronized}"
            )

    def call(self, inputs, training=False):
        by_batch = training and self.trainable
        dtype = "float32" if by_batch else keras.backend.result_type(self.compute_dtype, "float32")
        inputs, mean, variance, gamma, beta = (
            ops.cast(each, dtype)
            for each in (inputs, self.moving_mean, self.moving_variance, self.gamma, self.beta)
        )
        if by_batch:
            outputs, mean, variance = backend.batch_normalization(inputs, gamma, beta, self.epsilon)
            self._track(self.moving_mean, mean)
            self._track(self.moving_variance, variance)
        else:
            outputs = backend.normalized_by(inputs, mean, variance, gamma, beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)

    def _track(self, statistic, value):
        statistic.assign(statistic * self.momentum + value * (1 - self.momentum))

    def affine(self):
        """Returns (scale, offset), float64 arrays: in evaluation it gives scale * x + offset."""
        mean, variance, gamma, beta = (
            ops.convert_to_numpy(variable).astype("float64")
            for variable in (self.moving_mean, self.moving_variance, self.gamma, self.beta)
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def macs(self, input_shape):
        return 0


def refuse_training(layer, training):
    """Raises where a fused layer, whose normalization is folded, is asked to train."""
    if layer.fused and training:
        raise ValueError(
            f"A fused {type(layer).__name__} cannot be trained: its batch normalization is "
            "folded into other layers. Train the original model and call `keras_spm.fuse` on it."
        )
