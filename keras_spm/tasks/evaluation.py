"""Evaluation of a detector: losses and metrics in one pass over a data set."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm import backend
from keras_spm.backend import SafeTrainer
from keras_spm.data.first_batch import to_numpy
from keras_spm.metrics.coco import encode_masks


class Evaluation:
    """The evaluation of an `ObjectDetector`, with metrics that need all detections at once.

    They cannot be computed in the compiled graph of Keras's own evaluation.

    Args:
        detector: an `ObjectDetector`.
        metrics: functions of (annotations, detections), lists with one dict per image, that
            return a dict of floats.
    """

    def __init__(self, detector: keras.Model, metrics: Iterable[Callable]) -> None:
        self.metrics = list(metrics)
        self._detector = detector
        self._pass = _Pass(detector)

    def __call__(
        self,
        x: Any,
        y: Any,
        batch_size: int | None,
        verbose: str | int,
        sample_weight: Any,
        steps: int | None,
        callbacks: Any,
    ) -> dict[str, float]:
        if y is not None:
            x = _Batches(x, y, sample_weight, batch_size or 32)
        within_fit = isinstance(callbacks, keras.callbacks.CallbackList)
        if not within_fit:
            callbacks = keras.callbacks.CallbackList(callbacks, model=self._detector)
        callbacks.on_test_begin()
        is_silent = within_fit or not backend.is_writer()
        with backend.evaluated_together(x) as (part, joined):
            results = self._run(part, 0 if is_silent else verbose, steps)
            values, annotations, detections = joined(results)
        # In their order: JAX sorts the keys of dicts.
        names = self._detector.detector.loss_names
        losses = {name: float(values[name].mean()) for name in names}
        total = sum(losses.values()) + sum(map(float, self._detector.losses))
        logs = {"loss": total, **losses}
        for metric in self.metrics:
            logs.update(metric(annotations, detections))
        callbacks.on_test_end(logs)
        return logs

    def _run(self, x, verbose, steps):
        """Returns {name: losses of the images}, and annotations and detections per image."""
        outputs = self._pass.predict(x, verbose=verbose, steps=steps)
        return outputs["losses"], *self._objects(outputs["targets"], outputs["detections"])

    def _objects(self, targets, detections):
        """Returns lists of annotations and detections, in pixels of the images."""
        if not self.metrics:
            return [], []
        count = len(targets["slots"])
        scales = targets.get("scale", np.ones((count, 2), "float32"))
        # Without the size of an image, boxes are not clipped.
        sizes = targets.get("size", np.full(scales.shape, np.inf))
        targets["boxes"] = ops.convert_to_numpy(self._detector.to_xyxy(targets["boxes"]))
        annotations = _annotations(targets, scales)
        return annotations, self._detector.to_image_pixels(detections, scales, sizes)


class MaskEvaluation(Evaluation):
    """The evaluation of an `InstanceSegmenter`.

    Masks are encoded batch by batch: those of a whole data set would not fit into memory. The
    masks of targets are scaled to the sizes of the images by the nearest pixel.
    """

    def _run(self, x, verbose, steps):
        losses, annotations, detections = [], [], []
        for batch in itertools.islice(_batches(x), steps):
            outputs = self._pass.predict_on_batch(batch)
            losses.append(outputs["losses"])
            targets, masks = outputs["targets"], to_numpy(batch[1]["masks"])
            targets.setdefault("size", np.tile(masks.shape[2:], (len(masks), 1)))
            targets.setdefault("scale", np.ones((len(masks), 2), "float32"))
            truth, found = self._objects(targets, outputs["detections"])
            is_object = to_numpy(batch[1]["labels"]) >= 0
            for number, objects in enumerate(truth):
                visible = masks[number][is_object[number]]
                size, scale = targets["size"][number], targets["scale"][number]
                objects["masks"] = encode_masks(_to_size(visible, size, scale))
            annotations += truth
            detections += [{**each, "masks": encode_masks(each["masks"])} for each in found]
        losses = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *losses)
        return losses, annotations, detections


def _batches(x):
    """Yields the batches of a data set."""
    if isinstance(x, keras.utils.PyDataset):
        return (x[index] for index in range(len(x)))
    return iter(x)


def _to_size(masks, size, scale):
    """Scales masks (objects, height, width) of a batch to the size of their image."""
    rows, columns = (
        ((np.arange(length) + 0.5) * ratio).astype(int)
        for length, ratio in zip(size, scale, strict=True)
    )
    return masks[:, rows][:, :, columns]


def _annotations(targets, scales):
    """Returns a dict for each image, without padding."""
    boxes = targets["boxes"] / np.repeat(np.tile(scales[:, ::-1], 2), targets["slots"], axis=0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    labels = targets["labels"]
    columns = {
        "boxes": boxes,
        "labels": labels,
        "crowd": targets.get("crowd", np.zeros(labels.shape)).astype(bool),
        "areas": targets.get("areas", areas),
    }
    ends = np.cumsum(targets["slots"])
    return [
        {name: values[start:end][labels[start:end] >= 0] for name, values in columns.items()}
        for start, end in zip(ends - targets["slots"], ends, strict=True)
    ]


class _Pass(SafeTrainer, keras.Model):
    """Computes losses and detections of a batch, and returns them with its targets."""

    def __init__(self, detector):
        # Targets are not cast: half precision is too coarse for coordinates.
        super().__init__(name="evaluation", dtype="float32", autocast=False)
        self.detector = detector
        self.built = True

    def call(self, inputs: tuple) -> dict[str, Any]:
        images, targets, *weights = inputs
        outputs = self.detector(images, training=False)
        losses = self.detector.image_losses(targets, outputs, *weights)
        count = ops.shape(targets["labels"])[0]
        return {
            # Repeated for every image, so that the mean weights batches by their size.
            "losses": {
                name: ops.broadcast_to(ops.sum(loss), (count,)) for name, loss in losses.items()
            },
            "detections": self.detector.decode_outputs(outputs, images),
            "targets": _flat(targets),
        }

    def predict_part(self, *args: Any) -> Any:
        *state, data = args
        if len(data) == 1 and isinstance(data[0], (tuple, list)):  # Of `predict_on_batch`.
            (data,) = data
        if len(data) < 2:
            raise ValueError("`evaluate` needs images and targets. Received: images only.")
        return super().predict_part(*state, (data,))


def _flat(targets):
    """Returns the objects of all images in one row: batches may differ in their number."""
    shape = ops.shape(targets["labels"])
    flat = {"slots": ops.full((shape[0],), shape[1], "int32")}
    for name in ("boxes", "labels", "crowd", "areas"):
        if name in targets:
            flat[name] = ops.reshape(targets[name], (-1, 4) if name == "boxes" else (-1,))
    return {**flat, **{name: targets[name] for name in ("scale", "size") if name in targets}}


class _Batches(keras.utils.PyDataset):
    """Arrays as batches (images, targets) or (images, targets, weights)."""

    def __init__(self, images, targets, sample_weight, batch_size):
        super().__init__()
        weights = () if sample_weight is None else (sample_weight,)
        self._arrays = (images, targets, *weights)
        self._batch_size = batch_size

    def __len__(self):
        return -(-len(self._arrays[0]) // self._batch_size)

    def __getitem__(self, index):
        rows = slice(index * self._batch_size, (index + 1) * self._batch_size)
        return keras.tree.map_structure(lambda array: array[rows], self._arrays)
