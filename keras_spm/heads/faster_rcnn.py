"""Faster R-CNN: region proposals, then classes and boxes of the features of each."""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer, check_number
from keras_spm.heads.box_coder import BoxCoder, clip_boxes
from keras_spm.heads.feature_pyramid import FeaturePyramid
from keras_spm.heads.head import Head
from keras_spm.heads.matcher import IGNORE, BalancedSampler, Matcher, with_padding_object
from keras_spm.heads.nms import non_max_suppression, top_scores
from keras_spm.heads.region_proposals import RegionProposalNetwork
from keras_spm.heads.roi_align import roi_align, take_rows
from keras_spm.layers.dense import Dense
from keras_spm.layers.initializers import GlorotUniform, Normal
from keras_spm.layers.macs import macs
from keras_spm.losses import l1_loss
from keras_spm.types import Shape, Tensor

_BOX_FEATURES = 7  # Rows and columns.
# Anchors of a level, those with the highest scores, that are decoded.
_TRAINING_CANDIDATES, _CANDIDATES = 2000, 1000


class Samples(NamedTuple):
    """Boxes that train the heads on regions, all (batch, samples, …); positives come first."""

    boxes: Tensor  # (batch, samples, 4), xyxy in pixels.
    matches: Tensor  # Index of an object, BACKGROUND, or IGNORE for padding.
    labels: Tensor  # Class of the object; 0 if there is none.
    true_boxes: Tensor  # Box of the object; that of the first one if there is none.


class BoxHead(keras.layers.Layer):
    """Class logits and box deltas of each class for the features of a box.

    Two dense layers with ReLU, then a dense layer for classes and one for deltas.

    Args:
        num_classes: int, without background.
        channels: int, of both hidden layers.

    Input: (batch, boxes, rows, columns, channels). Output: (batch, boxes, num_classes + 1)
    logits, background last, and (batch, boxes, num_classes, 4) deltas, float32 under every
    dtype policy.
    """

    def __init__(self, num_classes: int, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.channels = num_classes, channels

    def build(self, input_shape: Shape) -> None:
        features = math.prod(input_shape[2:])
        self.fc1 = self._dense(self.channels, "fc1", features)
        self.fc2 = self._dense(self.channels, "fc2", self.channels)
        self.classifier = self._dense(self.num_classes + 1, "classifier", self.channels, 0.01)
        self.deltas = self._dense(4 * self.num_classes, "deltas", self.channels, 0.001)

    def _dense(self, units, name, input_channels, std=None):
        layer = Dense(
            units,
            "relu" if std is None else None,
            kernel_initializer=GlorotUniform() if std is None else Normal(std),
            # float32 at the end: half precision is too coarse for the loss.
            dtype=self.dtype_policy if std is None else "float32",
            name=name,
        )
        layer.build((None, input_channels))
        return layer

    def call(self, features: Tensor) -> tuple[Tensor, Tensor]:
        batch, boxes = ops.shape(features)[:2]
        hidden = ops.reshape(features, (batch, boxes, math.prod(features.shape[2:])))
        hidden = self.fc2(self.fc1(hidden))
        deltas = ops.reshape(self.deltas(hidden), (batch, boxes, self.num_classes, 4))
        return self.classifier(hidden), deltas

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        leading = tuple(input_shape[:2])
        return (*leading, self.num_classes + 1), (*leading, self.num_classes, 4)

    def macs(self, input_shape: Shape) -> int:
        batch, boxes, *features = input_shape
        hidden = (batch, boxes, self.channels)
        return macs(self.fc1, (batch, boxes, math.prod(features))) + sum(
            macs(layer, hidden) for layer in (self.fc2, self.classifier, self.deltas)
        )


class FasterRCNN(Head):
    """Faster R-CNN: region proposals on a feature pyramid, and a head on their features.

    A `FeaturePyramid` on P2 to P5 with P6 subsampled from P5, a region proposal network on
    all levels, `roi_align` of proposals from P2 to P5, and two dense layers that predict the
    class and a box for each class.

    Calling the layer returns what a batch has in common, whatever the proposals;
    `compute_losses` and `decode` select proposals and run the head on them.

    Args:
        num_classes: int, without background; `None` to let the task set it.
        pyramid_channels: int, of the feature pyramid network.
        rpn_channels: int, of the region proposal network.
        box_head_channels: int, of both dense layers.
        max_proposals: int, per image, in training and in inference.
        sampling_ratio: int, see `roi_align`.
        score_threshold: float; only (proposal, class) pairs with a higher score are kept.
        iou_threshold: float, of non-maximum suppression within a class.
        max_detections: int, per image.
        num_samples: int, proposals of an image to train the box head on, of which at most a
            quarter are positive.
        seed: int, of the random choice of anchors and proposals to train on; by default random.

    Input: {"P2": (batch, height, width, any channels), …, "P5": …}. Output: a dict of
    `objectness` {"P2": (batch, anchors), …}, `deltas` {"P2": (batch, anchors, 4), …},
    `anchors` {"P2": (anchors, 4), …} and `pyramid` {"P2": (batch, height, width,
    pyramid_channels), …} for P2 to P6; float32 under every dtype policy, but `pyramid`.

    Example:

    >>> model = keras_spm.ObjectDetector(
    ...     backbone, 80, detector=keras_spm.heads.FasterRCNN()
    ... )  # doctest: +SKIP

    Reference:
        Ren et al., Faster R-CNN, arXiv 1506.01497; on a feature pyramid as in Lin et al.,
        arXiv 1612.03144. Settings as in mmdetection.
    """

    loss_names = ("rpn_classification_loss", "rpn_box_loss", "classification_loss", "box_loss")
    # Whether an object is also assigned to the proposal that overlaps it most, if that
    # overlaps another object more.
    allow_low_quality_matches = False

    def __init__(
        self,
        num_classes: int | None = None,
        pyramid_channels: int = 256,
        rpn_channels: int = 256,
        box_head_channels: int = 1024,
        max_proposals: int = 1000,
        sampling_ratio: int = 0,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        num_samples: int = 512,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        # XLA under TensorFlow takes minutes to compile the losses, and needs known sizes.
        # Keras's jit_compile="auto" asks every layer.
        self.supports_jit = keras.config.backend() != "tensorflow"
        self.pyramid_channels = check_integer("pyramid_channels", pyramid_channels)
        self.rpn_channels = check_integer("rpn_channels", rpn_channels)
        self.box_head_channels = check_integer("box_head_channels", box_head_channels)
        self.max_proposals = check_integer("max_proposals", max_proposals)
        self.sampling_ratio = check_integer("sampling_ratio", sampling_ratio, minimum=0)
        self.score_threshold = check_number("score_threshold", score_threshold, maximum=1)
        self.iou_threshold = check_number("iou_threshold", iou_threshold, maximum=1)
        self.max_detections = check_integer("max_detections", max_detections)
        self.num_samples = check_integer("num_samples", num_samples)
        self.seed = seed if seed is None else check_integer("seed", seed, minimum=0)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.matcher = Matcher(0.5, 0.5, self.allow_low_quality_matches, low_quality_threshold=0.5)
        self.sampler = BalancedSampler(num_samples, 0.25, self.seed_generator)
        self.box_coder = BoxCoder((0.1, 0.1, 0.2, 0.2))

    def build(self, input_shape: dict[str, Shape]) -> None:
        check_integer("num_classes", self.num_classes)
        self.feature_pyramid = FeaturePyramid(
            self.pyramid_channels,
            extra_levels=1,
            subsample_extra_levels=True,
            dtype=self.dtype_policy,
            name="feature_pyramid",
        )
        self.feature_pyramid.build(input_shape)
        self.rpn = RegionProposalNetwork(
            self.rpn_channels, self.seed_generator, dtype=self.dtype_policy, name="rpn"
        )
        self.rpn.build(self.feature_pyramid.compute_output_shape(input_shape))
        self.box_head = BoxHead(
            self.num_classes, self.box_head_channels, dtype=self.dtype_policy, name="box_head"
        )
        self.box_head.build(self._features_shape(_BOX_FEATURES, None))

    def _features_shape(self, size, boxes):
        return (None, boxes, size, size, self.pyramid_channels)

    def call(self, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        pyramid = self.feature_pyramid(inputs)
        return {**self.rpn(pyramid), "pyramid": pyramid}

    def features(
        self, outputs: dict[str, dict[str, Tensor]], boxes: Tensor, output_size: int
    ) -> Tensor:
        """Returns the features of boxes, (batch, boxes, output_size, output_size, channels).

        Args:
            outputs: outputs of the layer.
            boxes: (batch, boxes, 4), xyxy in pixels.
            output_size: int, rows and columns.
        """
        pyramid = {level: outputs["pyramid"][level] for level in self.levels}
        return roi_align(pyramid, boxes, output_size, self.sampling_ratio)

    def class_predictors(self) -> list[keras.layers.Layer]:
        return [self.box_head.classifier, self.box_head.deltas]

    # === Losses ===

    def compute_losses(
        self,
        outputs: dict[str, dict[str, Tensor]],
        targets: dict[str, Tensor],
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns {name: (batch,)}: the losses of sampled anchors and of sampled proposals.

        Classification losses are cross-entropies, box losses L1 of positives. All are divided
        by the number of samples in the batch.

        Args:
            outputs: outputs of the layer.
            targets: dict of `boxes` (batch, objects, 4), xyxy in pixels; `labels` (batch,
                objects), -1 for padding; optionally `crowd` (batch, objects), true for
                objects that are not trained on. What overlaps them is background, as in
                mmdetection by default.
            sample_weight: optional (batch,).
        """
        boxes = ops.cast(targets["boxes"], "float32")
        labels = ops.cast(targets["labels"], "int32")
        if "crowd" in targets:
            labels = ops.where(ops.cast(targets["crowd"], "bool"), -1, labels)
        boxes, labels = with_padding_object(boxes, labels)
        losses = self.rpn.compute_losses(outputs, boxes, labels)
        samples = self._sample(outputs, boxes, labels)
        losses.update(self._region_losses(outputs, targets, samples))
        weight = 1.0 if sample_weight is None else ops.convert_to_tensor(sample_weight)
        return {name: losses[name] * weight for name in self.loss_names}

    def _sample(self, outputs, boxes, labels):
        """Samples from the proposals and the boxes of the objects."""
        image_size = [4 * length for length in ops.shape(outputs["pyramid"]["P2"])[1:3]]
        proposals, scores = self.rpn.propose(
            outputs, image_size, _TRAINING_CANDIDATES, self.max_proposals
        )
        matches = self.matcher(proposals, boxes, labels)
        matches = ops.where(scores > 0, matches, IGNORE)
        objects = ops.arange(ops.shape(labels)[1], dtype="int32")
        own_matches = ops.where(labels >= 0, objects, IGNORE)
        candidates = ops.concatenate([boxes, proposals], axis=1)
        indices, matches = self.sampler(ops.concatenate([own_matches, matches], axis=1))
        objects = ops.maximum(matches, 0)
        sampled_labels = ops.take_along_axis(labels, objects, axis=1)
        return Samples(
            boxes=ops.take_along_axis(candidates, indices[..., None], axis=1),
            matches=matches,
            labels=ops.where(matches >= 0, sampled_labels, 0),
            true_boxes=ops.take_along_axis(boxes, objects[..., None], axis=1),
        )

    def _region_losses(self, outputs, targets, samples):
        """Returns the losses of the heads on regions."""
        logits, deltas = self.box_head(self.features(outputs, samples.boxes, _BOX_FEATURES))
        positive = ops.cast(samples.matches >= 0, "float32")
        sampled = ops.cast(samples.matches != IGNORE, "float32")
        classes = ops.where(samples.matches >= 0, samples.labels, self.num_classes)
        classification = ops.sparse_categorical_crossentropy(classes, logits, from_logits=True)
        deltas = take_rows(deltas, samples.labels[..., None])[:, :, 0]
        box_losses = l1_loss(self.box_coder.encode(samples.boxes, samples.true_boxes), deltas)
        count = backend.count_per_replica(ops.sum(sampled), ops.shape(sampled)[0])
        return {
            "classification_loss": ops.sum(classification * sampled, axis=1) / count,
            "box_loss": ops.sum(box_losses * positive, axis=1) / count,
        }

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
        proposals, scores = self.rpn.propose(outputs, image_size, _CANDIDATES, self.max_proposals)
        logits, deltas = self.box_head(self.features(outputs, proposals, _BOX_FEATURES))
        probabilities = ops.softmax(logits, axis=-1)[..., :-1]
        probabilities = ops.where(scores[..., None] > 0, probabilities, 0.0)
        batch = ops.shape(logits)[0]
        # Fewer classes of a proposal than this have a probability above the threshold.
        most = self.num_classes
        if self.score_threshold > 0:
            most = min(most, math.ceil(1 / self.score_threshold))
        scores, pairs = top_scores(
            ops.reshape(probabilities, (batch, -1)), self.max_proposals * most
        )
        deltas = ops.reshape(deltas, (batch, -1, 4))
        deltas = backend.take_along_rows(deltas, pairs[..., None])
        proposals = backend.take_along_rows(proposals, pairs[..., None] // self.num_classes)
        boxes = self.box_coder.decode(proposals, deltas)
        boxes, scores = clip_boxes(boxes, scores, image_size)
        scores = ops.where(scores > self.score_threshold, scores, 0.0)
        boxes, scores, labels = non_max_suppression(
            boxes, scores, pairs % self.num_classes, self.iou_threshold, self.max_detections
        )
        return {"boxes": boxes, "scores": scores, "labels": labels}

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> dict[str, dict[str, Shape]]:
        pyramid = FeaturePyramid(self.pyramid_channels, 1, subsample_extra_levels=True)
        shapes = pyramid.compute_output_shape(input_shape)
        rpn = RegionProposalNetwork(self.rpn_channels, self.seed_generator)
        return {**rpn.compute_output_shape(shapes), "pyramid": shapes}

    def macs(self, input_shape: dict[str, Shape]) -> int:
        shapes = self.feature_pyramid.compute_output_shape(input_shape)
        return (
            self.feature_pyramid.macs(input_shape)
            + self.rpn.macs(shapes)
            + self.box_head.macs(self._features_shape(_BOX_FEATURES, self.max_proposals))
        )

    def get_config(self) -> dict[str, Any]:
        config = {
            "pyramid_channels": self.pyramid_channels,
            "rpn_channels": self.rpn_channels,
            "box_head_channels": self.box_head_channels,
            "max_proposals": self.max_proposals,
            "sampling_ratio": self.sampling_ratio,
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "max_detections": self.max_detections,
            "num_samples": self.num_samples,
            "seed": self.seed,
        }
        return {**super().get_config(), **config}
