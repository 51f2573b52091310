"""Losses: functions of tensors, computed in float32."""

from keras_spm.losses.boxes import generalized_iou_loss, l1_loss, smooth_l1_loss
from keras_spm.losses.focal import sigmoid_focal_loss
from keras_spm.losses.unexplained_variance import unexplained_variance

__all__ = [
    "generalized_iou_loss",
    "l1_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "unexplained_variance",
]
