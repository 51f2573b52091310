"""How much of the variance of maps or vectors other ones do not explain."""

import math

from keras import ops

from keras_spm.backend import sum_over_rows
from keras_spm.types import Tensor

_TINY = 1e-12


def unexplained_variance(targets: Tensor, predictions: Tensor) -> Tensor:
    """Returns the squared error over the variance of the targets, a float32 scalar.

    The variance is that around the mean of each channel over the batch and all positions, of all
    replicas. The result is 0 for equal tensors, and 1 for predictions of these means.

    Args:
        targets, predictions: (batch, …, channels).
    """
    targets, predictions = (ops.cast(each, "float32") for each in (targets, predictions))
    axes = tuple(range(len(targets.shape) - 1))
    count = ops.cast(math.prod(ops.shape(targets)[:-1]), "float32")
    totals, count = sum_over_rows(ops.sum(targets, axes), ops.convert_to_tensor(count))
    error = ops.sum(ops.square(predictions - targets))
    deviation = ops.sum(ops.square(targets - totals / count))
    error, deviation = sum_over_rows(error, deviation)
    size = count * targets.shape[-1]
    return (error / size) / (deviation / size + _TINY)
