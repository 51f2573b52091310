"""Object detection on any backbone with a feature pyramid."""

import importlib.util
import typing

import keras
import numpy as np
from keras import ops
from keras.utils import bounding_boxes

from keras_spm.heads.anchors import Anchors
from keras_spm.heads.box_coder import decode_boxes
from keras_spm.heads.box_coder import encode_boxes
from keras_spm.heads.feature_pyramid import FeaturePyramid
from keras_spm.heads.matcher import IGNORED
from keras_spm.heads.matcher import match_anchors
from keras_spm.heads.nms import suppress_overlaps
from keras_spm.heads.retinanet import RetinaNetHead
from keras_spm.layers.image_normalization import IMAGENET_MEAN
from keras_spm.layers.image_normalization import IMAGENET_STD
from keras_spm.losses import generalized_iou_loss
from keras_spm.losses import l1_loss
from keras_spm.losses import sigmoid_focal_loss
from keras_spm.losses import smooth_l1_loss
from keras_spm.metrics import coco_average_precision
from keras_spm.optimizers import AdamW
from keras_spm.registry import lookup
from keras_spm.tasks.dense_task import DenseTask
from keras_spm.tasks.dense_task import data_format_of
from keras_spm.tasks.dense_task import pyramid_inputs
from keras_spm.tasks.evaluation import Evaluation

_EXTRA_LEVELS = 2
# Pairs of anchor and class that suppression looks at.
_CANDIDATES = 5000
_FORMATS = {name: name for name in ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw")}


def _delta_loss(loss):
    return lambda anchors, boxes, deltas: loss(encode_boxes(anchors, boxes), deltas)


def _overlap_loss(anchors, boxes, deltas):
    return generalized_iou_loss(boxes, decode_boxes(anchors, deltas), "xyxy")


_BOX_LOSSES = {
    "l1": _delta_loss(l1_loss),
    "smooth_l1": _delta_loss(smooth_l1_loss),
    "generalized_iou": _overlap_loss,
}


class Detections(typing.NamedTuple):
    """What was found in an image, the likeliest first.

    Attributes:
        boxes: (found, 4) float32: left, top, right, bottom in pixels of the image.
        scores: (found,) float32, probabilities.
        labels: (found,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@keras.saving.register_keras_serializable("keras_spm")
class ObjectDetector(DenseTask):
    """Raw images in, boxes with classes and scores out: RetinaNet.

    Images are (batch, height, width, 3) with pixels in [0, 255], of any dtype; they are
    normalized inside the model, in float32. Called, the model gives what it learns by, for
    every anchor: `logits` (batch, anchors, num_classes), `deltas` (batch, anchors, 4), and
    the `anchors` (anchors, 4), all float32. `predict` gives detections: `boxes` (batch,
    max_detections, 4), `scores` and `labels` (batch, max_detections), the likeliest first;
    where there are fewer, 0, 0 and -1. `detect` takes images of any size or files.

    Targets in `fit` and `evaluate` are a dict of `boxes` (batch, objects, 4) in pixels of
    the batch and `labels` (batch, objects), ints that are -1 where an image has fewer
    objects. More may be there, as `keras_spm.data.DetectionBatching` makes them:
    `crowd` (batch, objects), true for regions that are no single object and are not learned;
    `areas` (batch, objects), `scale` and `size` (batch, 2), by which metrics speak of the
    images as they came.

    The model is compiled with defaults that suit fine-tuning.

    Args:
        backbone: a backbone of this package, or another functional model with
            `pyramid_outputs` of strides 8 to 32, such as KerasHub's.
        num_classes: int, without background.
        class_names: optional `num_classes` distinct strings, kept with the model.
        bounding_box_format: of boxes in targets and in what `predict` gives, as
            `keras.utils.bounding_boxes` names them; in pixels.
        pyramid_channels: int, of the feature pyramid.
        head_channels: int, of the head's convolutions.
        num_convs: int, convolutions of each of the head's towers.
        anchor_scale: float, the smallest anchor's side in strides.
        box_loss: `"l1"`, `"smooth_l1"` or `"generalized_iou"`.
        score_threshold: float; what is less likely is not given.
        iou_threshold: float; of boxes of one class that overlap more, one is given.
        max_detections: int, given for an image.
        mean: three floats, for pixels scaled to [0, 1].
        std: three floats, likewise.
        batching: optional `keras_spm.data.ImageBatching`, or a dict of its arguments: how
            `detect` brings images into a batch. By default at their own size.

    Raises:
        ValueError: for an argument that is none of those named, or `class_names` that are
            not distinct or not as many as classes.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ObjectDetector(backbone, num_classes=2, class_names=["cat", "dog"])
    >>> images = np.random.randint(0, 256, (2, 64, 64, 3), dtype="uint8")
    >>> boxes = np.array([[[4, 8, 40, 60], [30, 0, 64, 30]], [[0, 0, 9, 9], [0, 0, 0, 0]]])
    >>> targets = {"boxes": boxes.astype("float32"), "labels": np.array([[0, 1], [1, -1]])}
    >>> history = model.fit(images, targets, verbose=0)
    >>> found = model.detect([images[0], images[1][:40]])

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002.
    """

    levels = ("P3", "P4", "P5")

    pipeline_tag = "object-detection"

    def class_predictors(self):
        return [self.get_layer("head").class_tower[-1]]

    def __init__(
        self,
        backbone,
        num_classes,
        class_names=None,
        bounding_box_format="xyxy",
        pyramid_channels=256,
        head_channels=256,
        num_convs=4,
        anchor_scale=4.0,
        box_loss="l1",
        score_threshold=0.05,
        iou_threshold=0.5,
        max_detections=100,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        batching=None,
        **kwargs,
    ):
        lookup("bounding_box_format", bounding_box_format, _FORMATS)
        lookup("box_loss", box_loss, _BOX_LOSSES)
        dtype = backbone.dtype_policy

        # === Layers ===
        pyramid = FeaturePyramid(
            pyramid_channels, _EXTRA_LEVELS, dtype=dtype, name="feature_pyramid"
        )
        anchors = Anchors(anchor_scale, name="anchors")
        head = RetinaNetHead(
            num_classes, anchors.per_position, head_channels, num_convs, dtype=dtype, name="head"
        )

        # === Functional Model ===
        images, maps = pyramid_inputs(backbone, self.levels, mean, std)
        maps = pyramid(maps)
        super().__init__(
            inputs=images,
            outputs={**head(maps), "anchors": anchors(maps)},
            backbone=backbone,
            config={
                "num_classes": num_classes,
                "class_names": class_names,
                "bounding_box_format": bounding_box_format,
                "pyramid_channels": pyramid_channels,
                "head_channels": head_channels,
                "num_convs": num_convs,
                "anchor_scale": anchor_scale,
                "box_loss": box_loss,
                "score_threshold": score_threshold,
                "iou_threshold": iou_threshold,
                "max_detections": max_detections,
                "mean": tuple(mean),
                "std": tuple(std),
                "batching": batching,
            },
            **kwargs,
        )
        self.part_metrics = [
            keras.metrics.Mean(name="classification_loss"),
            keras.metrics.Mean(name="box_loss"),
        ]
        self.compile()

    def compile(self, optimizer="auto", metrics="auto", **kwargs):
        """Configures training; `"auto"` stands for what suits fine-tuning.

        The loss is RetinaNet's: focal loss of all anchors plus `box_loss` of those that hold
        an object, both summed and divided by the number of the latter in the batch.

        Args:
            optimizer: by default AdamW, learning rate 1e-4, weight decay 1e-4 on kernels.
            metrics: what `evaluate` adds to the losses, and so validation in `fit`:
                functions like `keras_spm.metrics.coco_average_precision`, which is the
                default where pycocotools is installed.
            **kwargs: as `keras.Model.compile` takes them, without `loss`.
        """
        if optimizer == "auto":
            optimizer = AdamW(learning_rate=1e-4, weight_decay=1e-4)
        if metrics == "auto":
            has_coco = importlib.util.find_spec("pycocotools") is not None
            metrics = [coco_average_precision] if has_coco else []
        self._evaluation = Evaluation(self, metrics)
        super().compile(optimizer=optimizer, **kwargs)

    def get_compile_config(self):
        metrics = keras.saving.serialize_keras_object(self._evaluation.metrics)
        return {**super().get_compile_config(), "metrics": metrics}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        parts = [ops.sum(part) for part in self.image_losses(y, y_pred, sample_weight)]
        images = ops.shape(y["labels"])[0]
        for metric, part in zip(self.part_metrics, parts, strict=True):
            metric.update_state(part, sample_weight=images)
        return sum([*parts, *self.losses])

    def image_losses(self, targets, outputs, sample_weight=None):
        """Returns (classification, boxes), (batch,) each: what images add to the batch's loss.

        Args:
            targets: dict of tensors, see the class.
            outputs: what the model gives.
            sample_weight: optional (batch,).
        """
        anchors, logits, deltas = (outputs[name] for name in ("anchors", "logits", "deltas"))
        boxes = self.corners(ops.cast(targets["boxes"], "float32"))
        labels = ops.cast(targets["labels"], "int32")
        if "crowd" in targets:
            labels = ops.where(ops.cast(targets["crowd"], "bool"), -1, labels)
        places = match_anchors(anchors, boxes, labels)
        has_object = ops.cast(places >= 0, "float32")
        counts = ops.cast(places != IGNORED, "float32")
        places = ops.maximum(places, 0)
        classes = ops.one_hot(ops.take_along_axis(labels, places, axis=1), self.num_classes)
        boxes = ops.take_along_axis(boxes, places[..., None], axis=1)

        of_classes = sigmoid_focal_loss(classes * has_object[..., None], logits)
        of_boxes = _BOX_LOSSES[self.box_loss](anchors, boxes, deltas)
        of_classes = ops.sum(ops.sum(of_classes, axis=-1) * counts, axis=-1)
        of_boxes = ops.sum(of_boxes * has_object, axis=-1)
        if sample_weight is not None:
            of_classes, of_boxes = of_classes * sample_weight, of_boxes * sample_weight
        objects = ops.maximum(ops.sum(has_object), 1)
        return of_classes / objects, of_boxes / objects

    # Detections

    def predict_step(self, *args):
        # With JAX (state, data) to (outputs, state), elsewhere data to outputs.
        *_, data = args
        outputs = super().predict_step(*args)
        images = data[0] if isinstance(data, (tuple, list)) else data
        if isinstance(outputs, tuple):
            outputs, state = outputs
            return self.detections(outputs, images), state
        return self.detections(outputs, images)

    def detections(self, outputs, images):
        """Returns the dict that `predict` gives.

        Args:
            outputs: what the model gives for them.
            images: the batch.
        """
        boxes, scores, labels = _candidates(outputs)
        height, width = self._size(images)
        limits = ops.cast(ops.stack([width, height, width, height]), "float32")
        boxes = ops.clip(boxes, 0, limits)
        scores = ops.where(scores >= self.score_threshold, scores, 0.0)
        boxes, scores, labels = suppress_overlaps(
            boxes, scores, labels, self.iou_threshold, self.max_detections
        )
        boxes = bounding_boxes.convert_format(boxes, "xyxy", self.bounding_box_format)
        return {"boxes": boxes, "scores": scores, "labels": labels}

    def corners(self, boxes):
        """Returns boxes as left, top, right, bottom."""
        return bounding_boxes.convert_format(boxes, self.bounding_box_format, "xyxy")

    def detect(self, images, batch_size=8):
        """Finds the objects in images of any size.

        Args:
            images: sequence of paths of image files, `PIL.Image`s, or arrays (height,
                width, 3) with pixels in [0, 255].
            batch_size: int.

        Returns:
            List of `Detections`, each in pixels of its image as it came.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image.
        """
        found = []
        for outputs, geometries in self.predictions(images, batch_size):
            scales, sizes = zip(*((each.scale, each.original) for each in geometries), strict=True)
            found += self.in_images(outputs, scales, sizes)
        return found

    def in_images(self, outputs, scales, sizes):
        """Returns what `predict` gave as a list of `Detections` in pixels of the images.

        Args:
            outputs: dict of arrays, as `predict` gives it.
            scales: (vertical, horizontal) size of each image in the batch, in its own.
            sizes: (height, width) of each image, at whose edges boxes end.
        """
        boxes = ops.convert_to_numpy(self.corners(outputs["boxes"]))
        found = []
        for box, score, label, scale, size in zip(
            boxes, outputs["scores"], outputs["labels"], scales, sizes, strict=True
        ):
            there = np.asarray(label) >= 0
            scale, limits = (np.tile(np.float32(each)[::-1], 2) for each in (scale, size))
            box = (box[there] / scale).clip(0, limits)
            found.append(Detections(box, score[there], label[there].astype("int64")))
        return found

    # Evaluation

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """Returns the losses and metrics of a data set, in one pass over it.

        Args:
            x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict: as
                `keras.Model.evaluate` takes them; y as described at the class. With
                several batches of a data set, all have equally many places for objects.

        Returns:
            {"loss", "classification_loss", "box_loss", and the metrics'}: floats; without
            `return_dict` their values alone.
        """
        self._check_pixels(x)
        logs = self._evaluation(x, y, batch_size, verbose, sample_weight, steps, callbacks)
        return logs if return_dict else list(logs.values())

    def _size(self, images):
        shape = ops.shape(images)
        return shape[2:4] if data_format_of(self.backbone) == "channels_first" else shape[1:3]


def _candidates(outputs):
    """The likeliest pairs of anchor and class: (boxes, probabilities, classes)."""
    logits = outputs["logits"]
    num_classes = logits.shape[-1]
    # Only of these anchors can a pair be among the likeliest: far fewer to sort.
    _, anchors = ops.top_k(ops.max(logits, axis=-1), _at_most(_CANDIDATES, logits))
    logits = ops.take_along_axis(logits, anchors[..., None], axis=1)
    pairs = ops.reshape(logits, (ops.shape(logits)[0], -1))
    logits, pairs = ops.top_k(pairs, _at_most(_CANDIDATES, pairs))
    anchors = ops.take_along_axis(anchors, pairs // num_classes, axis=1)
    deltas = ops.take_along_axis(outputs["deltas"], anchors[..., None], axis=1)
    boxes = decode_boxes(ops.take(outputs["anchors"], anchors, axis=0), deltas)
    return boxes, ops.sigmoid(logits), pairs % num_classes


def _at_most(count, tensor):
    """The lesser of `count` and a row's length, which a graph may not know yet."""
    size = ops.shape(tensor)[1]
    return min(count, size) if isinstance(size, int) else ops.minimum(count, size)
