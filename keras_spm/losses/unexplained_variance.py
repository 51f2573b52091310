"""How much of the variance of maps or vectors other ones do not explain."""

from keras import ops

from keras_spm.types import Tensor

_TINY = 1e-12


def unexplained_variance(targets: Tensor, predictions: Tensor) -> Tensor:
    """Returns the squared error over the variance of the targets, a float32 scalar.

    The variance is that around the mean of each channel over the batch and all positions. The
    result is 0 for equal tensors, and 1 for predictions of these means.

    Args:
        targets, predictions: (batch, …, channels).
    """
    targets, predictions = (ops.cast(each, "float32") for each in (targets, predictions))
    axes = tuple(range(len(targets.shape) - 1))
    centered = targets - ops.mean(targets, axis=axes, keepdims=True)
    error = ops.mean(ops.square(predictions - targets))
    return error / (ops.mean(ops.square(centered)) + _TINY)
