"""Losses that are means over what counts in the whole batch, also on several replicas."""

from typing import Any

from keras import ops

from keras_spm import backend
from keras_spm.types import Tensor


def share_of_loss(loss: Any, labels: Tensor) -> Tensor | float:
    """Returns the factor of a replica's mean loss with which the mean over replicas is right.

    Keras divides by the number of labels of a replica that are not ignored. The factor is that
    number over the mean of all replicas.

    Args:
        loss: `keras.losses.Loss`, perhaps with `ignore_class`.
        labels: of this replica, with the batch as first axis.
    """
    ignored = getattr(loss, "ignore_class", None)
    if ignored is None or not backend.has_parts():
        return 1.0
    labels = ops.convert_to_tensor(labels)
    counted = ops.sum(ops.cast(ops.not_equal(labels, ignored), "float32"))
    return counted / backend.count_per_replica(counted, ops.shape(labels)[0])
