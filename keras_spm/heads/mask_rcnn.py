"""Mask R-CNN: Faster R-CNN with a mask for each detection."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer
from keras_spm.heads.faster_rcnn import FasterRCNN
from keras_spm.heads.roi_align import crop_masks
from keras_spm.layers.convolution import Conv2D
from keras_spm.layers.initializers import conv_initializer
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor

_MASK_FEATURES = 14  # Rows and columns; a mask has twice as many.
_NUM_CONVS = 4


class ClassConvolution(Conv2D):
    """A 1x1 convolution to one logit per class, or to that of one class for each map.

    With a thousand classes, the logits of all of them take most of the memory.

    Input: (maps, height, width, channels), optionally `labels` (maps,) ints. Output: (maps,
    height, width, classes), or (maps, height, width) with labels.
    """

    def call(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            return super().call(inputs)
        kernel = ops.transpose(ops.convert_to_tensor(self.kernel)[0, 0])
        kernel = backend.take(kernel, labels, axis=0)
        bias = backend.take(ops.convert_to_tensor(self.bias), labels, axis=0)
        maps, height, width, channels = ops.shape(inputs)
        inputs = ops.reshape(inputs, (maps, height * width, channels))
        logits = ops.matmul(inputs, kernel[..., None])
        return ops.reshape(logits, (maps, height, width)) + bias[:, None, None]


class Upsampling(keras.layers.Conv2DTranspose):
    """A transposed 2x2 convolution with stride 2, computed as a dense layer.

    Each pixel becomes 2x2 pixels of its own. XLA on CPU takes many times as long for a
    convolution of a dilated map.

    Args:
        filters: int, channels of the output.
        **kwargs: `activation`, `kernel_initializer` and arguments of all layers.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, 2, 2, data_format="channels_last", **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        _, height, width, channels = inputs.shape
        # (2, 2, filters, channels) → (channels, 4 * filters)
        kernel = ops.transpose(ops.convert_to_tensor(self.kernel), (3, 0, 1, 2))
        pixels = backend.dense(inputs, ops.reshape(kernel, (channels, 4 * self.filters)), None)
        pixels = ops.reshape(pixels, (-1, height, width, 2, 2, self.filters))
        pixels = ops.transpose(pixels, (0, 1, 3, 2, 4, 5))
        outputs = ops.reshape(pixels, (-1, 2 * height, 2 * width, self.filters))
        return self.activation(outputs + ops.convert_to_tensor(self.bias))


class MaskHead(keras.layers.Layer):
    """Mask logits for the features of a box.

    Four 3x3 convolutions, a transposed 2x2 convolution with stride 2, all with ReLU, and a
    1x1 convolution with an output per class.

    Args:
        num_classes: int.
        channels: int, of all hidden layers.

    Input: (batch, boxes, height, width, channels), optionally `labels` (batch, boxes) ints.
    Output: with labels, the logits of the class of each box, (batch, boxes, 2 * height,
    2 * width); otherwise of all classes, (batch, boxes, 2 * height, 2 * width, num_classes).
    They are float32 under every dtype policy.
    """

    def __init__(self, num_classes: int, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.channels = num_classes, channels

    def build(self, input_shape: Shape) -> None:
        self.convolutions, input_channels = [], input_shape[-1]
        for number in range(1, _NUM_CONVS + 1):
            layer = Conv2D(
                self.channels,
                3,
                padding=1,
                activation="relu",
                dtype=self.dtype_policy,
                name=f"convolution_{number}",
            )
            layer.build((None, None, None, input_channels))
            self.convolutions.append(layer)
            input_channels = self.channels
        self.upsampling = Upsampling(
            self.channels,
            activation="relu",
            kernel_initializer=conv_initializer(),
            dtype=self.dtype_policy,
            name="upsampling",
        )
        self.upsampling.build((None, None, None, self.channels))
        # float32: half precision is too coarse for the loss.
        self.classifier = ClassConvolution(self.num_classes, 1, dtype="float32", name="classifier")
        self.classifier.build((None, None, None, self.channels))

    def call(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        batch, boxes, height, width, channels = ops.shape(features)
        maps = ops.reshape(features, (-1, height, width, channels))
        for layer in self.convolutions:
            maps = layer(maps)
        maps = self.upsampling(maps)
        logits = self.classifier(maps, None if labels is None else ops.reshape(labels, (-1,)))
        return ops.reshape(logits, (batch, boxes, *ops.shape(logits)[1:]))

    def compute_output_shape(self, input_shape: Shape, labels_shape: Shape | None = None) -> Shape:
        batch, boxes, height, width, _ = input_shape
        classes = () if labels_shape else (self.num_classes,)
        return (batch, boxes, 2 * height, 2 * width, *classes)

    def macs(self, input_shape: Shape) -> int:
        """Counts the logits of the class of each box alone."""
        batch, boxes, height, width, channels = input_shape
        total = 0
        for layer in self.convolutions:
            total += macs(layer, (batch, height, width, channels))
            channels = self.channels
        # An output of the transposed convolution is a product with one position of its kernel.
        return boxes * (total + 4 * height * width * channels * (channels + 1))


class MaskRCNN(FasterRCNN):
    """Mask R-CNN: `FasterRCNN` with a head that predicts a mask for each detection.

    Args:
        num_classes, pyramid_channels, rpn_channels, box_head_channels: as in `FasterRCNN`.
        mask_head_channels: int, of the hidden layers of the mask head.
        max_proposals, sampling_ratio, score_threshold, iou_threshold, max_detections,
            num_samples, seed: as in `FasterRCNN`. The mask head is trained on the positives.

    Input and output: as of `FasterRCNN`.

    Example:

    >>> model = keras_spm.InstanceSegmenter(
    ...     backbone, 80, detector=keras_spm.heads.MaskRCNN()
    ... )  # doctest: +SKIP

    Reference:
        He et al., Mask R-CNN, arXiv 1703.06870. Settings as in mmdetection.
    """

    loss_names = (*FasterRCNN.loss_names, "mask_loss")
    predicts_masks = True  # As `InstanceSegmenter` needs.
    allow_low_quality_matches = True

    def __init__(
        self,
        num_classes: int | None = None,
        pyramid_channels: int = 256,
        rpn_channels: int = 256,
        box_head_channels: int = 1024,
        mask_head_channels: int = 256,
        max_proposals: int = 1000,
        sampling_ratio: int = 0,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        num_samples: int = 512,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            pyramid_channels,
            rpn_channels,
            box_head_channels,
            max_proposals,
            sampling_ratio,
            score_threshold,
            iou_threshold,
            max_detections,
            num_samples,
            seed,
            **kwargs,
        )
        self.mask_head_channels = check_integer("mask_head_channels", mask_head_channels)

    def build(self, input_shape: dict[str, Shape]) -> None:
        super().build(input_shape)
        self.mask_head = MaskHead(
            self.num_classes, self.mask_head_channels, dtype=self.dtype_policy, name="mask_head"
        )
        self.mask_head.build(self._features_shape(_MASK_FEATURES, None))

    def class_predictors(self) -> list[keras.layers.Layer]:
        return [*super().class_predictors(), self.mask_head.classifier]

    def compute_losses(
        self,
        outputs: dict[str, dict[str, Tensor]],
        targets: dict[str, Tensor],
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns {name: (batch,)}: the losses of `FasterRCNN` and `mask_loss`.

        That is the binary cross-entropy of the mask of the true class, the mean over the
        pixels of all positive proposals in the batch.

        Args:
            outputs, sample_weight: as in `FasterRCNN`.
            targets: as in `FasterRCNN`, and `masks` (batch, objects, height, width), bool or
                uint8 of 0 and 1, of the size of the batch.
        """
        return super().compute_losses(outputs, targets, sample_weight)

    def _region_losses(self, outputs, targets, samples):
        losses = super()._region_losses(outputs, targets, samples)
        # Positives are the first samples.
        boxes, matches, labels, _ = (each[:, : self.sampler.max_positives] for each in samples)
        logits = self.mask_head(self.features(outputs, boxes, _MASK_FEATURES), labels)
        masks = ops.cast(targets["masks"], "uint8")
        if not masks.shape[1]:  # 0 or unknown, as in `with_padding_object`.
            masks = backend.pad(masks, ((0, 0), (0, 1), (0, 0), (0, 0)))
        fractions = crop_masks(masks, boxes, ops.maximum(matches, 0), 2 * _MASK_FEATURES)
        true_masks = ops.cast(fractions >= 0.5, "float32")
        entropies = ops.binary_crossentropy(true_masks, logits, from_logits=True)
        positive = ops.cast(matches >= 0, "float32")
        mask_losses = ops.mean(entropies, axis=(2, 3)) * positive
        count = backend.count_per_replica(ops.sum(positive), ops.shape(positive)[0])
        return {**losses, "mask_loss": ops.sum(mask_losses, axis=1) / count}

    def decode(
        self, outputs: dict[str, dict[str, Tensor]], image_size: tuple[Tensor | int, Tensor | int]
    ) -> dict[str, Tensor]:
        """Returns the detections of a batch, by descending score.

        Args:
            outputs, image_size: as in `FasterRCNN`.

        Returns:
            The dict of `FasterRCNN` with `masks` (batch, max_detections, 28, 28): the
            probability of the detection's class at positions of its box; 0 for padding. See
            `keras_spm.tasks.pasting.paste_masks`.
        """
        detections = super().decode(outputs, image_size)
        boxes, labels = detections["boxes"], detections["labels"]
        features = self.features(outputs, boxes, _MASK_FEATURES)
        masks = ops.sigmoid(self.mask_head(features, ops.maximum(labels, 0)))
        return {**detections, "masks": ops.where(labels[..., None, None] >= 0, masks, 0.0)}

    def macs(self, input_shape: dict[str, Shape]) -> int:
        features = self._features_shape(_MASK_FEATURES, self.max_detections)
        return super().macs(input_shape) + self.mask_head.macs(features)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_head_channels": self.mask_head_channels}
