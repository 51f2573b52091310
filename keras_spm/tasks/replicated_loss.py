"""Losses that are means over what counts in the whole batch, also on several replicas."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.types import Tensor


def ignored_class(loss: Any) -> int | None:
    """Returns the label that a loss ignores, or None."""
    if not isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return None
    # From Keras 3.16 on, it is not an attribute.
    return loss.get_config().get("ignore_class")


def share_of_loss(loss: Any, labels: Tensor) -> Tensor | float:
    """Returns the factor of a replica's mean loss with which the mean over replicas is right.

    Keras divides by the number of labels of a replica that are not ignored. The factor is that
    number over the mean of all replicas.

    Args:
        loss: as in `compile`.
        labels: of this replica, with the batch as first axis.
    """
    ignored = ignored_class(loss)
    if ignored is None or not backend.has_parts():
        return 1.0
    labels = ops.convert_to_tensor(labels)
    counted = ops.sum(ops.cast(ops.not_equal(labels, ignored), "float32"))
    return counted / backend.count_per_replica(counted, ops.shape(labels)[0])
