"""Callbacks for `fit`."""

import abc

import keras

from keras_spm.metrics.coco import METRIC_NAMES
from keras_spm.metrics.coco import Annotations
from keras_spm.metrics.coco import coco_average_precision
from keras_spm.metrics.segmentation import MeanIoU


class _Evaluation(keras.callbacks.Callback, abc.ABC):
    """Measures a model on examples at the end of epochs, and writes that into the logs.

    Subclasses define `names`, of the numbers, and `measure`.
    """

    def __init__(self, examples, every=1, batch_size=8, prefix="val_"):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}")
        self.examples = examples
        self.every = every
        self.batch_size = batch_size
        self.prefix = prefix

    @abc.abstractmethod
    def measure(self, model):
        """Returns {name: float} of a model, now."""

    def on_epoch_end(self, epoch, logs=None):
        measured = (epoch + 1) % self.every == 0
        results = self.measure(self.model) if measured else dict.fromkeys(self.names, -1.0)
        logs.update({f"{self.prefix}{name}": results[name] for name in self.names})

    def _batches(self):
        for start in range(0, len(self.examples), self.batch_size):
            stop = min(start + self.batch_size, len(self.examples))
            yield [self.examples[index] for index in range(start, stop)]


class CocoEvaluation(_Evaluation):
    """Measures a detector's COCO average precision at the end of epochs.

    The numbers of `keras_spm.metrics.coco_average_precision` go into the epoch's logs, for
    the history and all callbacks that come after this one. In an epoch between two
    evaluations they are -1, so that a `ModelCheckpoint` passes over it.

    Args:
        examples: sequence of objects with an `image`, as the model's `detect` takes it,
            and the attributes of `keras_spm.metrics.Annotations`. Each is asked for once
            per evaluation, `batch_size` at a time.
        every: int, epochs from one evaluation to the next.
        batch_size: int, images at a time.
        prefix: str, of the numbers' names.
        class_names: optional strings; `measure` then tells each class's precision too.

    Raises:
        ValueError: where `every` is below 1.

    Example:

    >>> callbacks = [
    ...     CocoEvaluation(examples),
    ...     keras.callbacks.ModelCheckpoint(
    ...         "best.keras", monitor="val_AP", mode="max", save_best_only=True
    ...     ),
    ... ]  # doctest: +SKIP
    """

    names = METRIC_NAMES

    def __init__(self, examples, every=1, batch_size=8, prefix="val_", class_names=None):
        super().__init__(examples, every, batch_size, prefix)
        self.class_names = class_names

    def measure(self, model):
        annotations, detections = [], []
        for batch in self._batches():
            detections += model.detect([each.image for each in batch], self.batch_size)
            # Without the images, of which no more than a batch should be held.
            annotations += [
                Annotations(each.boxes, each.labels, each.crowd, each.areas) for each in batch
            ]
        return coco_average_precision(annotations, detections, self.class_names)


class SegmentationEvaluation(_Evaluation):
    """Measures a segmenter at the images' own sizes, at the end of epochs.

    `mean_iou` over the whole of the examples and `pixel_accuracy` go into the epoch's logs;
    in an epoch between two evaluations they are -1. After a measurement `per_class` holds
    each class's intersection over union, an array.

    Args:
        examples: sequence of objects with an `image`, as the model's `segment` takes it, and
            a `segmentation_map` (height, width) of ints. Each is asked for once per evaluation,
            `batch_size` at a time.
        every: int, epochs from one evaluation to the next.
        batch_size: int, images at a time.
        prefix: str, of the numbers' names.

    Raises:
        ValueError: where `every` is below 1.
    """

    names = ("mean_iou", "pixel_accuracy")

    def measure(self, model):
        metric = MeanIoU(model.num_classes, model.ignore_class)
        for batch in self._batches():
            predictions = model.segment([each.image for each in batch], self.batch_size)
            for example, prediction in zip(batch, predictions, strict=True):
                metric.update_on_host(example.segmentation_map, prediction)
        counts = keras.ops.convert_to_numpy(metric.counts).astype("float64")
        self.per_class = keras.ops.convert_to_numpy(metric.per_class())
        return {
            "mean_iou": float(metric.result()),
            "pixel_accuracy": float(counts.trace() / max(counts.sum(), 1)),
        }
