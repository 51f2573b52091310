"""Region proposal network: boxes that may contain an object of any class."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.heads.anchors import Anchors, num_anchors
from keras_spm.heads.box_coder import BoxCoder, clip_boxes
from keras_spm.heads.feature_pyramid import level_number, sorted_levels
from keras_spm.heads.matcher import IGNORE, BalancedSampler, Matcher
from keras_spm.heads.nms import non_max_suppression, top_scores
from keras_spm.heads.roi_align import take_rows
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.initializers import Normal
from keras_spm.layers.macs import macs
from keras_spm.losses import l1_loss
from keras_spm.types import Shape, Tensor

_IOU_THRESHOLD = 0.7  # Of non-maximum suppression within a level.


class RegionProposalNetwork(keras.layers.Layer):
    """Objectness and box deltas for every anchor of every pyramid level.

    A 3x3 convolution with ReLU and two 1x1 convolutions, shared by all levels. Each position
    has a square anchor with a side of 8 strides, and two of the same area.

    Args:
        channels: int, of the 3x3 convolution.
        seed: `keras.random.SeedGenerator` for sampling anchors.

    Input: {"P2": (batch, height, width, channels), …}. Output: a dict of `objectness`
    {"P2": (batch, anchors), …}, `deltas` {"P2": (batch, anchors, 4), …} and `anchors`
    {"P2": (anchors, 4), …}, float32 under every dtype policy.

    Reference:
        Ren et al., Faster R-CNN, arXiv 1506.01497, section 3.1; on a feature pyramid as in
        Lin et al., arXiv 1612.03144, section 4.1.
    """

    def __init__(self, channels: int, seed: keras.random.SeedGenerator, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.anchors = Anchors(base_scale=8.0, scales_per_octave=1, name="anchors")
        self.matcher = Matcher(0.7, 0.3, low_quality_threshold=0.3)
        self.sampler = BalancedSampler(256, 0.5, seed)
        self.box_coder = BoxCoder()

    def build(self, input_shape: dict[str, Shape]) -> None:
        self.anchors.build(input_shape)
        per_position = self.anchors.anchors_per_position
        input_channels = next(iter(input_shape.values()))[-1]
        self.convolution = self._conv(self.channels, 3, "convolution", input_channels)
        # float32: half precision is too coarse for the loss.
        self.objectness = self._conv(per_position, 1, "objectness", self.channels, "float32")
        self.deltas = self._conv(4 * per_position, 1, "deltas", self.channels, "float32")

    def _conv(self, filters, kernel_size, name, input_channels, dtype=None):
        layer = Conv2D(
            filters,
            kernel_size,
            padding=kernel_size // 2,
            kernel_initializer=Normal(0.01),
            dtype=dtype or self.dtype_policy,
            name=name,
        )
        layer.build((None, None, None, input_channels))
        return layer

    def call(self, pyramid: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        objectness, deltas = {}, {}
        for level in sorted_levels(pyramid):
            maps = ops.relu(self.convolution(pyramid[level]))
            batch = ops.shape(maps)[0]
            objectness[level] = ops.reshape(self.objectness(maps), (batch, -1))
            deltas[level] = ops.reshape(self.deltas(maps), (batch, -1, 4))
        return {"objectness": objectness, "deltas": deltas, "anchors": self.anchors(pyramid)}

    def compute_losses(
        self, outputs: dict[str, dict[str, Tensor]], boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Returns {name: (batch,)}: cross-entropy of the sampled anchors, L1 of positives.

        Both are divided by the number of samples in the batch.

        Args:
            outputs: outputs of the layer.
            boxes: (batch, objects, 4), xyxy in pixels, at least one entry.
            labels: (batch, objects) ints; entries below 0 are padding.
        """
        anchors = ops.concatenate(list(outputs["anchors"].values()))
        logits, deltas = (
            ops.concatenate(list(outputs[name].values()), axis=1)
            for name in ("objectness", "deltas")
        )
        indices, matches = self.sampler(self.matcher(anchors, boxes, labels))
        anchors = ops.take(anchors, indices, axis=0)
        logits, deltas = take_rows(logits, indices), take_rows(deltas, indices)
        boxes = ops.take_along_axis(boxes, ops.maximum(matches, 0)[..., None], axis=1)
        positive = ops.cast(matches >= 0, "float32")
        sampled = ops.cast(matches != IGNORE, "float32")
        classification = ops.binary_crossentropy(positive, logits, from_logits=True)
        box_losses = l1_loss(self.box_coder.encode(anchors, boxes), deltas)
        count = backend.count_per_replica(ops.sum(sampled), ops.shape(labels)[0])
        return {
            "rpn_classification_loss": ops.sum(classification * sampled, axis=1) / count,
            "rpn_box_loss": ops.sum(box_losses * positive, axis=1) / count,
        }

    def propose(
        self,
        outputs: dict[str, dict[str, Tensor]],
        image_size: tuple[Tensor | int, Tensor | int],
        candidates_per_level: int,
        max_proposals: int,
    ) -> tuple[Tensor, Tensor]:
        """Returns the best boxes after suppression within each level, without gradient.

        Args:
            outputs: outputs of the layer.
            image_size: (height, width) of the batch, at which boxes are clipped.
            candidates_per_level: int, number of anchors with the highest scores that are read.
            max_proposals: int, per image.

        Returns:
            (boxes, scores), (batch, max_proposals, 4) and (batch, max_proposals), by
            descending score; padded with 0.
        """
        candidates = []
        for level in outputs["objectness"]:
            logits, deltas = (
                ops.stop_gradient(ops.convert_to_tensor(outputs[name][level]))
                for name in ("objectness", "deltas")
            )
            logits, anchors = top_scores(logits, candidates_per_level)
            deltas = backend.take_along_rows(deltas, anchors[..., None])
            anchors = ops.take(outputs["anchors"][level], anchors, axis=0)
            levels = ops.full_like(logits, level_number(level), dtype="int32")
            candidates.append((self.box_coder.decode(anchors, deltas), logits, levels))
        boxes, logits, levels = (
            ops.concatenate(parts, axis=1) for parts in zip(*candidates, strict=True)
        )
        boxes, scores = clip_boxes(boxes, ops.sigmoid(logits), image_size)
        boxes, scores, _ = non_max_suppression(boxes, scores, levels, _IOU_THRESHOLD, max_proposals)
        return boxes, scores

    def compute_output_shape(self, input_shape: dict[str, Shape]) -> dict[str, dict[str, Shape]]:
        per_position = self.anchors.anchors_per_position
        batch = next(iter(input_shape.values()))[0]
        counts = {
            level: num_anchors(input_shape[level], per_position)
            for level in sorted_levels(input_shape)
        }
        return {
            "objectness": {level: (batch, count) for level, count in counts.items()},
            "deltas": {level: (batch, count, 4) for level, count in counts.items()},
            "anchors": {level: (count, 4) for level, count in counts.items()},
        }

    def macs(self, input_shape: dict[str, Shape]) -> int:
        total = 0
        for shape in input_shape.values():
            hidden = (*shape[:-1], self.channels)
            total += macs(self.convolution, shape)
            total += macs(self.objectness, hidden) + macs(self.deltas, hidden)
        return total
