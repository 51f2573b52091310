"""Batch normalization with PyTorch's running variance."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_epsilon, check_number
from keras_spm.types import Tensor


@keras.saving.register_keras_serializable("keras_spm")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the running statistics of PyTorch.

    The running variance is updated with the unbiased variance of the batch, `n / (n - 1)`
    times the one that normalizes; zero for n = 1. Statistics are computed in float32 under
    every dtype policy.

    Args:
        momentum: float from 0 to 1, weight of the old statistic in the moving average.
        epsilon: float above 0, added to the variance.
        **kwargs: the initializers and regularizers of Keras's layer.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any) -> None:
        momentum = check_number("momentum", momentum, maximum=1)
        super().__init__(momentum=momentum, epsilon=check_epsilon("epsilon", epsilon), **kwargs)
        if self.axis != -1 or self.renorm or self.synchronized or not (self.center and self.scale):
            raise ValueError(
                "`axis` must be -1, `center` and `scale` True, `renorm` and `synchronized` False. "
                f"Received: axis={self.axis}, center={self.center}, scale={self.scale}, "
                f"renorm={self.renorm}, synchronized={self.synchronized}"
            )

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        uses_batch_statistics = self.uses_batch_statistics(training)
        dtype = "float32" if uses_batch_statistics else self._inference_dtype
        inputs = ops.cast(inputs, dtype)
        mean, variance, gamma, beta = self._cast_variables(dtype)
        if uses_batch_statistics:
            outputs, mean, variance = backend.batch_normalization(inputs, gamma, beta, self.epsilon)
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance)
        else:
            outputs = backend.normalize(inputs, mean, variance, gamma, beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)

    def uses_batch_statistics(self, training: bool) -> bool:
        """Returns whether `call` normalizes by the statistics of the batch."""
        return training and self.trainable

    def inference_affine(self) -> tuple[Tensor, Tensor]:
        """Returns (scale, offset), (channels,) each: inference computes scale * x + offset."""
        return backend.affine(*self._cast_variables(self._inference_dtype), self.epsilon)

    @property
    def _inference_dtype(self):
        return keras.backend.result_type(self.compute_dtype, "float32")

    @property
    def _all_variables(self):
        return (self.moving_mean, self.moving_variance, self.gamma, self.beta)

    def _cast_variables(self, dtype):
        return [ops.cast(variable, dtype) for variable in self._all_variables]

    def _update(self, statistic: keras.Variable, value: Tensor) -> None:
        value = ops.cast(value, statistic.dtype)
        statistic.assign(statistic * self.momentum + value * (1 - self.momentum))

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `inference_affine` of the present values as arrays of float64."""
        mean, variance, gamma, beta = (
            ops.convert_to_numpy(variable).astype("float64") for variable in self._all_variables
        )
        scale = gamma / np.sqrt(variance + self.epsilon)
        return scale, beta - mean * scale


def refuse_training(layer: keras.layers.Layer, training: bool) -> None:
    """Raises ValueError if a fused layer, whose batch normalization is folded, is trained."""
    if layer.fused and training:
        raise ValueError(
            f"A fused {type(layer).__name__} cannot be trained: its batch normalization is "
            "folded into other layers. Train the original model and call `keras_spm.fuse` on it."
        )
