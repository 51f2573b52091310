"""Instance segmentation on any backbone with a feature pyramid."""

from typing import Any

import keras
import numpy as np

from keras_spm.callbacks import InstanceEvaluation
from keras_spm.heads.mask_rcnn import MaskRCNN
from keras_spm.metrics.coco import coco_average_precision, coco_mask_average_precision
from keras_spm.tasks.checks import check_masks
from keras_spm.tasks.evaluation import MaskEvaluation
from keras_spm.tasks.object_detector import ObjectDetector
from keras_spm.tasks.prediction_formats import INSTANCE_FORMATS


class InstanceSegmenter(ObjectDetector):
    """Raw images in, boxes and masks with classes and scores out.

    An `ObjectDetector` that also segments each object. `predict` returns in addition `masks`
    (batch, max_detections, 28, 28), the probability that a position in the box belongs to the
    object; `detect` returns `masks` (found, height, width) bool in pixels of the image.

    Targets have in addition `masks` (batch, objects, height, width), bool or 0 and 1, in pixels of
    the batch. They take a byte per pixel: 54 MB per image for 50 objects of 800 x 1344 pixels.

    Args:
        detector: head with the methods `compute_losses` and `decode`, the latter with `masks`,
            and with the attribute `predicts_masks`; `keras_spm.heads.MaskRCNN()` by default.
        backbone, num_classes, class_names, bounding_box_format, mean, std, batching, **kwargs:
            as in `ObjectDetector`. The backbone needs strides 4 to 32.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.InstanceSegmenter(backbone, num_classes=2, class_names=["cat", "dog"])
    >>> images = np.random.randint(0, 256, (1, 64, 64, 3), dtype="uint8")
    >>> masks = np.zeros((1, 1, 64, 64), bool)
    >>> masks[0, 0, 8:60, 4:40] = True
    >>> targets = {"boxes": np.array([[[4.0, 8, 40, 60]]]), "labels": np.array([[0]])}
    >>> history = model.fit(images, {**targets, "masks": masks}, verbose=0)
    >>> detections = model.detect(images[0])

    Reference:
        He et al., Mask R-CNN, arXiv 1703.06870.
    """

    pipeline_tag = "image-segmentation"
    prediction_formats = INSTANCE_FORMATS
    default_metrics = (coco_average_precision, coco_mask_average_precision)
    evaluation_callback = InstanceEvaluation
    evaluation_class = MaskEvaluation

    @staticmethod
    def check_detector(detector: keras.layers.Layer | None) -> keras.layers.Layer:
        """Returns the detector, by default `MaskRCNN()`.

        Raises:
            ValueError: if it does not predict masks.
        """
        if detector is None:
            return MaskRCNN()
        if not getattr(detector, "predicts_masks", False):
            raise ValueError(
                "`detector` must predict masks, as `keras_spm.heads.MaskRCNN` does (attribute "
                f"`predicts_masks`). Received: detector={type(detector).__name__}"
            )
        return detector

    def check_targets(self, images: np.ndarray, targets: Any) -> None:
        super().check_targets(images, targets)
        if "masks" not in targets:
            raise ValueError(f"Targets must also have `masks`. Received: {list(targets)}")
        check_masks(targets["masks"], targets["labels"], self.image_size(images))
