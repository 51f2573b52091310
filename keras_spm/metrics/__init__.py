"""Metrics of dense tasks: some for `compile`, COCO's over a whole data set at once."""

from keras_spm.metrics.coco import coco_average_precision, coco_mask_average_precision
from keras_spm.metrics.segmentation import MeanIoU, PixelAccuracy

__all__ = ["MeanIoU", "PixelAccuracy", "coco_average_precision", "coco_mask_average_precision"]
