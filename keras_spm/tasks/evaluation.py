"""Evaluation of a detector: losses and metrics in one pass over a data set."""

import keras
import numpy as np
from keras import ops


class Evaluation:
    """What a detector's `evaluate` does.

    Metrics such as average precision need all detections at once, on the host: a compiled
    graph, as Keras's own evaluation runs, cannot make them.

    Args:
        detector: an `ObjectDetector`.
        metrics: functions of what is in the images and what was found, lists of one for
            each image, that return a dict of floats.
    """

    def __init__(self, detector, metrics):
        self.metrics = list(metrics)
        self._detector = detector
        self._pass = _Pass(detector)

    def __call__(self, x, y, batch_size, verbose, sample_weight, steps, callbacks):
        if y is not None:
            x = _Batches(x, y, sample_weight, batch_size or 32)
        within_fit = isinstance(callbacks, keras.callbacks.CallbackList)
        if not within_fit:
            callbacks = keras.callbacks.CallbackList(callbacks, model=self._detector)
        callbacks.on_test_begin()
        outputs = self._pass.predict(x, verbose=0 if within_fit else verbose, steps=steps)
        classification, boxes = map(float, outputs["losses"].mean(axis=0))
        logs = {
            "loss": classification + boxes + sum(map(float, self._detector.losses)),
            "classification_loss": classification,
            "box_loss": boxes,
        }
        if self.metrics:
            logs.update(self._measured(outputs["targets"], outputs["detections"]))
        callbacks.on_test_end(logs)
        return logs

    def _measured(self, targets, detections):
        scales = targets.get("scale", np.ones((len(targets["labels"]), 2), "float32"))
        # Of an image whose size is not told, all of its place in the batch counts.
        sizes = targets.get("size", np.full(scales.shape, np.inf))
        annotations = _annotations(
            {**targets, "boxes": self._detector.corners(targets["boxes"])}, scales
        )
        found = self._detector.in_images(detections, scales, sizes)
        results = {}
        for metric in self.metrics:
            results.update(metric(annotations, found))
        return results


def _annotations(targets, scales):
    annotations = []
    boxes = np.asarray(targets["boxes"]) / np.tile(scales[:, ::-1], 2)[:, None]
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    areas = targets.get("areas", areas)
    crowd = targets.get("crowd", np.zeros(areas.shape)).astype(bool)
    for box, label, *rest in zip(boxes, targets["labels"], crowd, areas, strict=True):
        there = label >= 0
        names, values = ("boxes", "labels", "crowd", "areas"), (box, label, *rest)
        annotations.append({name: value[there] for name, value in zip(names, values, strict=True)})
    return annotations


class _Pass(keras.Model):
    """From images and targets to losses and detections, of which targets are handed on."""

    def __init__(self, detector):
        # Targets stay as they are: half a digit of a coordinate is too coarse.
        super().__init__(name="evaluation", dtype="float32", autocast=False)
        self.detector = detector
        self.built = True

    def call(self, inputs):
        images, targets, *weights = inputs
        outputs = self.detector(images, training=False)
        losses = [ops.sum(part) for part in self.detector.image_losses(targets, outputs, *weights)]
        count = ops.shape(targets["labels"])[0]
        return {
            # Once for every image, so that batches of any size average rightly.
            "losses": ops.tile(ops.stack(losses)[None], (count, 1)),
            "detections": self.detector.detections(outputs, images),
            "targets": targets,
        }

    def predict_step(self, *args):
        *state, data = args
        if len(data) < 2:
            raise ValueError("`evaluate` needs targets beside the images. Received: images alone.")
        return super().predict_step(*state, (data,))


class _Batches(keras.utils.PyDataset):
    """Arrays as batches (images, targets) or (images, targets, weights)."""

    def __init__(self, images, targets, sample_weight, batch_size):
        super().__init__()
        weights = () if sample_weight is None else (sample_weight,)
        self._arrays = (images, targets, *weights)
        self._batch_size = batch_size
        self._count = len(images)

    def __len__(self):
        return -(-self._count // self._batch_size)

    def __getitem__(self, index):
        part = slice(index * self._batch_size, (index + 1) * self._batch_size)
        return keras.tree.map_structure(lambda array: array[part], self._arrays)
