"""What a training leaves of itself while it runs: TensorBoard's curves, its first batch."""


import keras
import numpy as np

from keras_spm.tasks import ImageClassifier
from keras_spm.tasks import ObjectDetector
from keras_spm.tasks import SemanticSegmenter
from keras_spm.trainer.event_log import EventLog
from keras_spm.trainer.files import written_beside
from keras_spm.visualize import plot_detections
from keras_spm.visualize import plot_images
from keras_spm.visualize import plot_segmentations

# Images of the first batch that are drawn.
_SHOWN = 8


def observers(prepared, folder):
    """Returns the callbacks that write into a `RunFolder`, those after all that measure."""
    path = folder.working_path
    return [EventLog(path / "tensorboard"), _Samples(prepared, path / "samples.png")]


class _Samples(keras.callbacks.Callback):
    """Draws the first batch as the model gets it, before the training's first step."""

    def __init__(self, prepared, path):
        super().__init__()
        self._prepared = prepared
        self._path = path

    def on_train_begin(self, logs=None):
        if not self._path.exists():
            with written_beside(self._path) as beside:
                draw_samples(self._prepared.model, *self._prepared.first_batch(), beside)


def draw_samples(model, images, targets, path):
    """Draws images of a batch with their labels, boxes or segmentation maps.

    Args:
        model: a task.
        images: (batch, height, width, 3).
        targets: as the task is trained on.
        path: where the PNG goes.
    """
    _DRAWINGS[type(model)](model, images[:_SHOWN], targets, path)


def _draw_labels(model, images, labels, path):
    titles = [_title(label, model.class_names) for label in labels[: len(images)]]
    plot_images(images, titles, path)


def _title(label, class_names):
    """The class's name, or the names of several with what they weigh."""
    if np.ndim(label) == 0:
        return class_names[label]
    places = [place for place in np.argsort(-label, kind="stable") if label[place] > 0]
    if not places:
        return "none"
    if np.all(label[places] == 1):
        return ", ".join(class_names[place] for place in places)
    return ", ".join(f"{class_names[place]} {label[place]:.2f}" for place in places)


def _draw_segmentation_maps(model, images, segmentation_maps, path):
    plot_segmentations(images, segmentation_maps[: len(images)], None, model.class_names, path)


def _draw_boxes(model, images, targets, path):
    truth = []
    for boxes, labels in zip(targets["boxes"], targets["labels"], strict=True):
        there = labels >= 0
        truth.append({"boxes": boxes[there], "labels": labels[there]})
    plot_detections(images, truth[: len(images)], None, model.class_names, path)


_DRAWINGS = {
    ImageClassifier: _draw_labels,
    ObjectDetector: _draw_boxes,
    SemanticSegmenter: _draw_segmentation_maps,
}
