"""RetinaNet: pyramid, anchors, predictions, losses and decoding."""

import math
from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer, check_number
from keras_spm.heads.anchors import Anchors, num_anchors
from keras_spm.heads.box_coder import BoxCoder, clip_boxes
from keras_spm.heads.feature_pyramid import FeaturePyramid
from keras_spm.heads.head import Head
from keras_spm.heads.matcher import IGNORE, Matcher, with_padding_object
from keras_spm.heads.nms import non_max_suppression, top_scores
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.initializers import Normal
from keras_spm.layers.macs import macs
from keras_spm.losses import generalized_iou_loss, l1_loss, sigmoid_focal_loss, smooth_l1_loss
from keras_spm.registry import lookup
from keras_spm.types import Shape, Tensor

_EXTRA_LEVELS = 2
# Initial probability of every class at every anchor. At 0.5, the many background anchors
# would dominate the loss.
_PRIOR = 0.01

BOX_LOSSES = {"l1": l1_loss, "smooth_l1": smooth_l1_loss, "generalized_iou": generalized_iou_loss}


class RetinaNet(Head):
    """RetinaNet: class logits and box deltas for every anchor of every pyramid level.

    A `FeaturePyramid` on P3 to P5 with two extra levels, then two towers of 3x3
    convolutions with ReLU, one for classes and one for boxes, shared by all levels.

    Args:
        num_classes: int, without background; `None` to let the task set it.
        pyramid_channels: int, of the feature pyramid network.
        channels: int, of the towers.
        num_convs: int, convolutions of each tower before its last one.
        anchor_scale: float, side of the smallest square anchor in strides.
        box_loss: `"l1"`, `"smooth_l1"` or `"generalized_iou"`.
        candidates_per_level: int, number of (anchor, class) pairs of a level, those with the
            highest scores, that are decoded.
        score_threshold: float; only pairs with a higher score are kept.
        iou_threshold: float, of non-maximum suppression within a class.
        max_detections: int, per image.

    Input: {"P3": (batch, height, width, any channels), "P4": …, "P5": …}. Output: a dict of
    `logits` {"P3": (batch, anchors, num_classes), …}, `deltas` {"P3": (batch, anchors, 4),
    …} and `anchors` {"P3": (anchors, 4), …} for P3 to P7, float32 under every dtype policy.

    Raises:
        ValueError: for an unknown `box_loss`.

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002.
    """

    levels = ("P3", "P4", "P5")
    loss_names = ("classification_loss", "box_loss")

    def __init__(
        self,
        num_classes: int | None = None,
        pyramid_channels: int = 256,
        channels: int = 256,
        num_convs: int = 4,
        anchor_scale: float = 4.0,
        box_loss: str = "l1",
        candidates_per_level: int = 1000,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        lookup("box_loss", box_loss, BOX_LOSSES)
        self.pyramid_channels = check_integer("pyramid_channels", pyramid_channels)
        self.channels = check_integer("channels", channels)
        self.num_convs = check_integer("num_convs", num_convs, minimum=0)
        self.anchor_scale = check_number("anchor_scale", anchor_scale, allow_minimum=False)
        self.box_loss = box_loss
        self.candidates_per_level = check_integer("candidates_per_level", candidates_per_level)
        self.score_threshold = check_number("score_threshold", score_threshold, maximum=1)
        self.iou_threshold = check_number("iou_threshold", iou_threshold, maximum=1)
        self.max_detections = check_integer("max_detections", max_detections)
        self.anchors = Anchors(anchor_scale, name="anchors")
        self.matcher = Matcher(positive_threshold=0.5, negative_threshold=0.4)
        self.box_coder = BoxCoder()

    def build(self, input_shape: dict[str, Shape]) -> None:
        check_integer("num_classes", self.num_classes)
        self.feature_pyramid = FeaturePyramid(
            self.pyramid_channels, _EXTRA_LEVELS, dtype=self.dtype_policy, name="feature_pyramid"
        )
        self.feature_pyramid.build(input_shape)
        self.anchors.build(self.feature_pyramid.compute_output_shape(input_shape))
        prior = keras.initializers.Constant(-math.log((1 - _PRIOR) / _PRIOR))
        self.class_tower = self._tower("class", self.num_classes, prior)
        self.box_tower = self._tower("box", 4, "zeros")

    def _tower(self, name, outputs_per_anchor, bias_initializer):
        tower, channels = [], self.pyramid_channels
        for number in range(1, self.num_convs + 2):
            is_last = number > self.num_convs
            filters = self.anchors.anchors_per_position * outputs_per_anchor
            conv = Conv2D(
                filters if is_last else self.channels,
                3,
                padding="same",
                kernel_initializer=Normal(0.01),
                bias_initializer=bias_initializer if is_last else "zeros",
                # float32 at the end: half precision is too coarse for the loss.
                dtype="float32" if is_last else self.dtype_policy,
                name=f"{name}_predictor" if is_last else f"{name}_{number}",
            )
            conv.build((None, None, None, channels))
            channels = self.channels
            tower.append(conv)
        return tower

    def call(self, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        pyramid = self.feature_pyramid(inputs)
        return {
            "logits": self._predict(self.class_tower, self.num_classes, pyramid),
            "deltas": self._predict(self.box_tower, 4, pyramid),
            "anchors": self.anchors(pyramid),
        }

    def _predict(self, tower, outputs_per_anchor, pyramid):
        *hidden, last = tower
        outputs = {}
        for level, maps in pyramid.items():
            for conv in hidden:
                maps = ops.relu(conv(maps))
            outputs[level] = ops.reshape(last(maps), (ops.shape(maps)[0], -1, outputs_per_anchor))
        return outputs

    def class_predictors(self) -> list[keras.layers.Layer]:
        return [self.class_tower[-1]]

    # === Losses ===

    def compute_losses(
        self,
        outputs: dict[str, dict[str, Tensor]],
        targets: dict[str, Tensor],
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns {name: (batch,)}: focal loss of all anchors, box loss of positives.

        Both are divided by the number of positive anchors in the batch, at least 1.

        Args:
            outputs: outputs of the layer.
            targets: dict of `boxes` (batch, objects, 4), xyxy in pixels; `labels` (batch,
                objects), -1 for padding; optionally `crowd` (batch, objects), true for
                objects that are not trained on.
            sample_weight: optional (batch,).
        """
        anchors = ops.concatenate(list(outputs["anchors"].values()))
        logits, deltas = (
            ops.concatenate(list(outputs[name].values()), axis=1) for name in ("logits", "deltas")
        )
        boxes = ops.cast(targets["boxes"], "float32")
        labels = ops.cast(targets["labels"], "int32")
        if "crowd" in targets:
            labels = ops.where(ops.cast(targets["crowd"], "bool"), -1, labels)
        boxes, labels = with_padding_object(boxes, labels)
        matches = self.matcher(anchors, boxes, labels)
        positive = ops.cast(matches >= 0, "float32")
        counted = ops.cast(matches != IGNORE, "float32")
        indices = ops.maximum(matches, 0)
        classes = ops.one_hot(backend.take_along_rows(labels, indices), self.num_classes)
        boxes = backend.take_along_rows(boxes, indices[..., None])

        focal = sigmoid_focal_loss(classes * positive[..., None], logits)
        losses = {
            "classification_loss": ops.sum(ops.sum(focal, axis=-1) * counted, axis=-1),
            "box_loss": ops.sum(self._box_losses(anchors, boxes, deltas) * positive, axis=-1),
        }
        count = backend.count_per_replica(ops.sum(positive), ops.shape(labels)[0])
        weight = 1.0 if sample_weight is None else sample_weight
        return {name: loss * weight / count for name, loss in losses.items()}

    def _box_losses(self, anchors, boxes, deltas):
        if self.box_loss == "generalized_iou":
            return generalized_iou_loss(boxes, self.box_coder.decode(anchors, deltas), "xyxy")
        return BOX_LOSSES[self.box_loss](self.box_coder.encode(anchors, boxes), deltas)

    # === Detections ===

    def decode(
        self, outputs: dict[str, dict[str, Tensor]], image_size: tuple[Tensor | int, Tensor | int]
    ) -> dict[str, Tensor]:
        """Returns the detections of a batch, by descending score.

        Args:
            outputs: outputs of the layer.
            image_size: (height, width) of the batch, at which boxes are clipped.

        Returns:
            dict of `boxes` (batch, max_detections, 4), xyxy in pixels, `scores` and
            `labels` (batch, max_detections); padded with 0, 0 and -1.
        """
        candidates = [self._candidates(outputs, level) for level in outputs["logits"]]
        boxes, scores, labels = (
            ops.concatenate(parts, axis=1) for parts in zip(*candidates, strict=True)
        )
        boxes, scores = clip_boxes(boxes, scores, image_size)
        scores = ops.where(scores > self.score_threshold, scores, 0.0)
        boxes, scores, labels = non_max_suppression(
            boxes, scores, labels, self.iou_threshold, self.max_detections
        )
        return {"boxes": boxes, "scores": scores, "labels": labels}

    def _candidates(self, outputs, level):
        """Returns boxes, scores and labels of the best (anchor, class) pairs of a level."""
        logits, deltas = outputs["logits"][level], outputs["deltas"][level]
        # The best pairs are among the anchors with the best classes: far fewer to sort.
        best, anchors = top_scores(ops.max(logits, axis=-1), self.candidates_per_level)
        logits = backend.take_along_rows(logits, anchors[..., None])
        if backend.is_exporting():
            # Where there are fewer anchors, the last one is repeated.
            logits = ops.where(ops.isfinite(best)[..., None], logits, -math.inf)
        pairs = ops.reshape(logits, (ops.shape(logits)[0], -1))
        logits, pairs = top_scores(pairs, self.candidates_per_level)
        anchors = backend.take_along_rows(anchors, pairs // self.num_classes)
        deltas = backend.take_along_rows(deltas, anchors[..., None])
        boxes = self.box_coder.decode(ops.take(outputs["anchors"][level], anchors, axis=0), deltas)
        return boxes, ops.sigmoid(logits), pairs % self.num_classes

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> dict[str, dict[str, Shape]]:
        pyramid = FeaturePyramid(self.pyramid_channels, _EXTRA_LEVELS)
        shapes = pyramid.compute_output_shape(input_shape)
        per_position = self.anchors.anchors_per_position
        counts = {level: num_anchors(shape, per_position) for level, shape in shapes.items()}
        batch = next(iter(input_shape.values()))[0]
        return {
            "logits": {level: (batch, count, self.num_classes) for level, count in counts.items()},
            "deltas": {level: (batch, count, 4) for level, count in counts.items()},
            "anchors": {level: (count, 4) for level, count in counts.items()},
        }

    def macs(self, input_shape: dict[str, Shape]) -> int:
        shapes = self.feature_pyramid.compute_output_shape(input_shape)
        return self.feature_pyramid.macs(input_shape) + sum(
            macs(conv, (*shape[:-1], conv.kernel.shape[2]))
            for shape in shapes.values()
            for conv in (*self.class_tower, *self.box_tower)
        )

    def get_config(self) -> dict[str, Any]:
        config = {
            "pyramid_channels": self.pyramid_channels,
            "channels": self.channels,
            "num_convs": self.num_convs,
            "anchor_scale": self.anchor_scale,
            "box_loss": self.box_loss,
            "candidates_per_level": self.candidates_per_level,
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "max_detections": self.max_detections,
        }
        return {**super().get_config(), **config}
