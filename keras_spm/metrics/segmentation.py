"""Metrics of semantic segmentation, over the whole of a data set."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("keras_spm")
class MeanIoU(keras.metrics.Metric):
    """Mean over the classes of intersection over union, from logits or probabilities.

    Counted is over the whole data set, not averaged over batches; a class that neither
    occurs nor is predicted is left out of the mean. Pixels are counted in int32, so a
    class may have up to 2**31 of them. (Keras's own metric counts in int64, which JAX has
    not, and scatters pixel by pixel.)

    Args:
        num_classes: int.
        ignore_class: int, label of pixels that do not count, or `None`.
        name: str.
    """

    def __init__(self, num_classes, ignore_class=None, name="mean_iou", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.ignore_class = ignore_class
        # Rows are true classes, columns predicted ones.
        self.counts = self.add_variable(
            (num_classes, num_classes), "zeros", dtype="int32", name="counts"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts the pixels of a batch.

        Args:
            y_true: (batch, height, width), classes; other values than classes do not count.
            y_pred: (batch, height, width, num_classes), or the classes themselves.
            sample_weight: not taken into account.
        """
        classes = self.num_classes
        truth = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        if len(y_pred.shape) > len(y_true.shape):
            y_pred = ops.argmax(y_pred, axis=-1)
        prediction = ops.reshape(ops.cast(y_pred, "int32"), (-1,))
        counted = ops.logical_and(truth >= 0, truth < classes)
        if self.ignore_class is not None:
            counted = ops.logical_and(counted, truth != self.ignore_class)
        pair = ops.where(counted, truth * classes + prediction, classes**2)
        found = ops.segment_sum(ops.ones_like(pair), pair, num_segments=classes**2 + 1)
        self.counts.assign_add(ops.reshape(found[:-1], (classes, classes)))

    def update_on_host(self, segmentation_map, prediction):
        """Counts the pixels of an image of any size; JAX would compile `update_state` for each.

        Args:
            segmentation_map: (height, width) ints, as `y_true`.
            prediction: (height, width) ints, each a class.
        """
        counted = (segmentation_map >= 0) & (segmentation_map < self.num_classes)
        if self.ignore_class is not None:
            counted &= segmentation_map != self.ignore_class
        pair = segmentation_map[counted].astype("int64") * self.num_classes + prediction[counted]
        found = np.bincount(pair, minlength=self.num_classes**2)
        self.counts.assign_add(found.reshape(self.counts.shape).astype("int32"))

    def per_class(self):
        """Returns (num_classes,): intersection over union, 0 for a class that never occurred."""
        hits, union = self._hits_and_union()
        return ops.divide_no_nan(hits, union)

    def result(self):
        hits, union = self._hits_and_union()
        occurring = ops.sum(ops.cast(union > 0, self.dtype))
        return ops.divide_no_nan(ops.sum(ops.divide_no_nan(hits, union)), occurring)

    def _hits_and_union(self):
        counts = ops.cast(self.counts, self.dtype)
        hits = ops.diagonal(counts)
        return hits, ops.sum(counts, axis=0) + ops.sum(counts, axis=1) - hits

    def get_config(self):
        config = {"num_classes": self.num_classes, "ignore_class": self.ignore_class}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_spm")
class PixelAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Share of the pixels whose likeliest class is theirs.

    Args:
        ignore_class: int, label of pixels that do not count, or `None`.
        name: str.
    """

    def __init__(self, ignore_class=None, name="pixel_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.ignore_class is not None:
            counts = ops.cast(ops.not_equal(y_true, self.ignore_class), self.dtype)
            sample_weight = counts if sample_weight is None else sample_weight * counts
        super().update_state(y_true, y_pred, sample_weight)

    def get_config(self):
        return {"ignore_class": self.ignore_class, "name": self.name, "dtype": self.dtype}
