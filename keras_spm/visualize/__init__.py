"""Plots of trainings, predictions and networks, saved as PNG."""

from keras_spm.visualize.explanations import attention_map, grad_cam
from keras_spm.visualize.plots import (
    class_colors,
    plot_confusion_matrix,
    plot_detections,
    plot_images,
    plot_segmentations,
    plot_training_curves,
)

__all__ = [
    "attention_map",
    "class_colors",
    "grad_cam",
    "plot_confusion_matrix",
    "plot_detections",
    "plot_images",
    "plot_segmentations",
    "plot_training_curves",
]
