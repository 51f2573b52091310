"""Callbacks for `fit`."""

import abc
from collections.abc import Sequence

import keras

from keras_spm.arguments import check_integer
from keras_spm.metrics.coco import (
    MASK_METRIC_NAMES,
    METRIC_NAMES,
    coco_average_precision,
    coco_mask_average_precision,
    encode_masks,
)
from keras_spm.metrics.segmentation import MeanIoU
from keras_spm.types import Example


class _Evaluation(keras.callbacks.Callback, abc.ABC):
    """Evaluates a model on examples at the end of epochs and adds the results to the logs."""

    names: tuple[str, ...]  # Of the results of `measure`.

    def __init__(
        self, examples: Sequence[Example], every: int = 1, batch_size: int = 8, prefix: str = "val_"
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}")
        self.examples = examples
        self.every = every
        self.batch_size = batch_size
        self.prefix = prefix
        self._last = {}

    @abc.abstractmethod
    def measure(self, model: keras.Model) -> dict[str, float]:
        """Returns the results of a model on the examples."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            results = self.measure(self.model)
            self._last = {f"{self.prefix}{name}": results[name] for name in self.names}
        logs.update(self._last)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._last = {}

    def _batches(self):
        for start in range(0, len(self.examples), self.batch_size):
            stop = min(start + self.batch_size, len(self.examples))
            yield [self.examples[index] for index in range(start, stop)]


class CocoEvaluation(_Evaluation):
    """Computes the COCO average precision of a detector at the end of epochs.

    The results of `keras_spm.metrics.coco_average_precision` are added to the logs, for the
    history and for callbacks after this one. In epochs without an evaluation the last results
    are repeated, so that `ModelCheckpoint` keeps the best model. Before the first evaluation
    there are none: `EarlyStopping` does not count these epochs. Its `patience` should be above
    `every`, and `CSVLogger`, which takes its columns from the first epoch, needs `every=1`.

    Args:
        examples: sequence of dicts with `image`, as `ObjectDetector.detect` takes it, and
            `boxes`, `labels`, `crowd` and `areas`, as `coco_average_precision` takes them.
        every: number of epochs between evaluations.
        batch_size: number of images per batch.
        prefix: prefix of the names in the logs.
        class_names: optional; `measure` then also returns the precision of each class.

    Raises:
        ValueError: if `every` is below 1.

    Example:

    >>> best = keras.callbacks.ModelCheckpoint(
    ...     "best.keras", monitor="val_AP", mode="max", save_best_only=True
    ... )
    >>> model.fit(batches, callbacks=[CocoEvaluation(examples), best])  # doctest: +SKIP
    """

    names = METRIC_NAMES
    fields = ("boxes", "labels", "crowd", "areas")  # Of the examples that are compared.

    def __init__(
        self,
        examples: Sequence[Example],
        every: int = 1,
        batch_size: int = 8,
        prefix: str = "val_",
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(examples, every, batch_size, prefix)
        self.class_names = class_names

    def measure(self, model: keras.Model) -> dict[str, float]:
        annotations, detections = [], []
        for batch in self._batches():
            found = model.detect([example["image"] for example in batch], self.batch_size)
            detections += map(self._kept, found)
            # Without the images, so that only one batch of them is in memory.
            fields = self.fields
            annotations += [
                self._kept({name: example[name] for name in fields}) for example in batch
            ]
        return self._measured(annotations, detections)

    def _kept(self, objects):
        """What is kept of the objects of an image until all are compared."""
        return objects

    def _measured(self, annotations, detections):
        return coco_average_precision(annotations, detections, self.class_names)


class InstanceEvaluation(CocoEvaluation):
    """Computes the COCO average precision of an `InstanceSegmenter` at the end of epochs.

    Like `CocoEvaluation`, for boxes and, with names like `mask_AP`, for masks. The examples also
    have `masks` (objects, height, width).
    """

    names = (*METRIC_NAMES, *MASK_METRIC_NAMES)
    fields = (*CocoEvaluation.fields, "masks")

    def _kept(self, objects):
        return {**objects, "masks": encode_masks(objects["masks"])}

    def _measured(self, annotations, detections):
        arguments = annotations, detections, self.class_names
        return {**coco_average_precision(*arguments), **coco_mask_average_precision(*arguments)}


class SegmentationEvaluation(_Evaluation):
    """Evaluates a segmenter at the original image sizes, at the end of epochs.

    `mean_iou` over all examples and `pixel_accuracy` are added to the logs. After an
    evaluation, `per_class` is an array of the intersection over union of each class.

    Args:
        examples: sequence of dicts with `image`, as `SemanticSegmenter.segment` takes it, and
            `segmentation_map` (height, width), ints.
        every, batch_size, prefix: as in `CocoEvaluation`.

    Raises:
        ValueError: if `every` is below 1.
    """

    names = ("mean_iou", "pixel_accuracy")

    def measure(self, model: keras.Model) -> dict[str, float]:
        metric = MeanIoU(model.num_classes, model.ignore_class)
        for batch in self._batches():
            predictions = model.segment([example["image"] for example in batch], self.batch_size)
            for example, prediction in zip(batch, predictions, strict=True):
                metric.update_on_host(example["segmentation_map"], prediction)
        counts = metric.confusion_matrix()
        self.per_class = keras.ops.convert_to_numpy(metric.per_class())
        return {
            "mean_iou": float(metric.result()),
            "pixel_accuracy": float(counts.trace() / max(counts.sum(), 1)),
        }


class FadeOutDefaultMerging(keras.callbacks.Callback):
    """Replaces the default mergings of `merging="default+spm"` during a training.

    In the first of `epochs`, the default merging has its full share. The share falls linearly,
    and from epoch `epochs` on, only Stepwise Patch Merging is used. `keras_spm.spm_only` then
    removes the default mergings. Train for some more epochs before.

    Args:
        epochs: number of epochs until the share is 0, counted from the start of the training.
        start: number of epochs before the share begins to fall.

    Raises:
        ValueError: if a number is out of range; in `fit`, if the model has no such merging.

    Example:

    >>> fading = keras_spm.callbacks.FadeOutDefaultMerging(epochs=10)
    >>> model.fit(batches, epochs=20, callbacks=[fading])  # doctest: +SKIP
    >>> keras_spm.spm_only(model).save("birds.keras")  # doctest: +SKIP
    """

    def __init__(self, epochs: int, start: int = 0) -> None:
        super().__init__()
        self.epochs = check_integer("epochs", epochs)
        self.start = check_integer("start", start, 0, self.epochs - 1)

    def on_train_begin(self, logs: dict | None = None) -> None:
        layers = self.model._flatten_layers()
        self._gated = [layer for layer in layers if hasattr(layer, "default_share")]
        if not self._gated:
            raise ValueError(
                '`FadeOutDefaultMerging` needs a model with `merging="default+spm"`. '
                f"Received: {type(self.model).__name__} {self.model.name!r} without it"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        share = 1 - (epoch - self.start) / (self.epochs - self.start)
        for layer in self._gated:
            layer.default_share.assign(min(max(share, 0.0), 1.0))
