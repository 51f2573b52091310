"""Metrics of semantic segmentation, accumulated over a data set."""

import keras
import numpy as np
from keras import ops

from keras_spm.types import Tensor

_HIGH = 2**24  # So that the sums of many replicas fit into int32.


@keras.saving.register_keras_serializable("keras_spm")
class MeanIoU(keras.metrics.Metric):
    """Mean of the classes' intersection over union, from logits or probabilities.

    Pixels are counted over the whole data set; the metric is not a mean over batches.
    Classes that neither occur nor are predicted are left out of the mean.

    Args:
        num_classes: int.
        ignore_class: int, label of ignored pixels, or `None`.
        name, dtype: as in `keras.metrics.Metric`.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_class: int | None = None,
        name: str = "mean_iou",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        # Rows are true classes, columns predicted classes. A count is low + high * 2**24: int32
        # would wrap after 2**31 pixels, a thousand images of Cityscapes, and JAX has no int64.
        self.low, self.high = (
            self.add_variable((num_classes, num_classes), "zeros", dtype="int32", name=name)
            for name in ("low", "high")
        )

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Counts the pixels of a batch; `sample_weight` is ignored.

        Args:
            y_true: (batch, height, width) or (batch, height, width, 1), classes. Other values
                are ignored.
            y_pred: (batch, height, width, num_classes), or (batch, height, width) classes.
        """
        classes = self.num_classes
        y_true = without_channel(y_true)
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        if len(y_pred.shape) > len(y_true.shape):
            y_pred = ops.argmax(y_pred, axis=-1)
        predictions = ops.reshape(ops.cast(y_pred, "int32"), (-1,))
        valid = ops.logical_and(labels >= 0, labels < classes)
        if self.ignore_class is not None:
            valid = ops.logical_and(valid, labels != self.ignore_class)
        pairs = ops.where(valid, labels * classes + predictions, classes**2)
        counts = ops.segment_sum(ops.ones_like(pairs), pairs, num_segments=classes**2 + 1)
        self._add(ops.reshape(counts[:-1], (classes, classes)))

    def update_on_host(self, segmentation_map: np.ndarray, prediction: np.ndarray) -> None:
        """Counts the pixels of one image, (height, width) ints, with NumPy.

        JAX would compile `update_state` for each image size.
        """
        valid = (segmentation_map >= 0) & (segmentation_map < self.num_classes)
        if self.ignore_class is not None:
            valid &= segmentation_map != self.ignore_class
        pairs = segmentation_map[valid].astype("int64") * self.num_classes + prediction[valid]
        counts = np.bincount(pairs, minlength=self.num_classes**2)
        self._add(counts.reshape(self.low.shape).astype("int32"))

    def _add(self, counts):
        """Adds the counts of a batch, below 2**30."""
        total = self.low + counts
        carry = total // _HIGH
        self.low.assign(total - carry * _HIGH)
        self.high.assign_add(carry)

    def confusion_matrix(self) -> np.ndarray:
        """Returns (num_classes, num_classes) int64: pixels of each true and predicted class."""
        low, high = (ops.convert_to_numpy(each).astype("int64") for each in (self.low, self.high))
        return low + high * _HIGH

    def per_class(self) -> Tensor:
        """Returns (num_classes,), the classes' intersection over union; 0 for absent classes."""
        intersection, union = self._intersection_and_union()
        return ops.divide_no_nan(intersection, union)

    def result(self) -> Tensor:
        _, union = self._intersection_and_union()
        present = ops.sum(ops.cast(union > 0, self.dtype))
        return ops.divide_no_nan(ops.sum(self.per_class()), present)

    def _intersection_and_union(self) -> tuple[Tensor, Tensor]:
        counts = ops.cast(self.low, self.dtype) + ops.cast(self.high, self.dtype) * _HIGH
        intersection = ops.diagonal(counts)
        return intersection, ops.sum(counts, axis=0) + ops.sum(counts, axis=1) - intersection

    def get_config(self) -> dict:
        config = {"num_classes": self.num_classes, "ignore_class": self.ignore_class}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_spm")
class PixelAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Fraction of the pixels, except those of `ignore_class`, that are classified correctly."""

    def __init__(
        self,
        ignore_class: int | None = None,
        name: str = "pixel_accuracy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = without_channel(y_true)
        if self.ignore_class is not None:
            valid = ops.cast(ops.not_equal(y_true, self.ignore_class), self.dtype)
            sample_weight = valid if sample_weight is None else sample_weight * valid
        super().update_state(y_true, y_pred, sample_weight)

    def get_config(self) -> dict:
        return {"ignore_class": self.ignore_class, "name": self.name, "dtype": self.dtype}


def without_channel(y_true: Tensor) -> Tensor:
    """Returns (batch, height, width) of maps that may have a last axis of 1."""
    is_4d = len(y_true.shape) == 4 and y_true.shape[-1] == 1
    return ops.squeeze(y_true, axis=-1) if is_4d else y_true
