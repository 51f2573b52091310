"""Tiny tasks and their data, for campaigns that measure how the library behaves."""

import keras
import numpy as np

import keras_spm
from keras_spm.data import DetectionBatching, DigitScenes, ImageBatching, load_dataset
from tests import golden

CLASSES = 10
SIDE = 64  # Of scenes, pixels.


def classifier(**arguments):
    """Returns an `ImageClassifier` of digits."""
    return keras_spm.ImageClassifier(golden.short_backbone("pvt_v2_spm", **arguments), CLASSES)


def segmenter(batching=None, **arguments):
    """Returns a `SemanticSegmenter` of scenes of digits."""
    return keras_spm.SemanticSegmenter(
        golden.short_backbone("pvt_v2_spm", **arguments),
        CLASSES + 1,
        keras_spm.heads.SemanticFPN(pyramid_channels=8, channels=8),
        batching=batching,
    )


def detector(batching=None, **arguments):
    """Returns an `ObjectDetector` of scenes of digits."""
    return keras_spm.ObjectDetector(
        golden.short_backbone("pvt_v2_spm", **arguments),
        CLASSES,
        keras_spm.heads.RetinaNet(pyramid_channels=8, channels=8, num_convs=1),
        batching=batching,
    )


TASKS = {"classifier": classifier, "segmenter": segmenter, "detector": detector}


def data(task, count):
    """Returns (images, targets) of a task, arrays, as `fit` takes them."""
    if task == "classifier":
        train = load_dataset("digits").train
        return train.images[:count], train.labels[:count]
    scenes = list(DigitScenes("train", count, SIDE, masks=False))
    if task == "detector":
        return DetectionBatching(ImageBatching(), max_objects=8)(scenes)
    return (
        np.stack([scene["image"] for scene in scenes]),
        np.stack([scene["segmentation_map"] for scene in scenes]),
    )


def image(height, width, seed=0):
    """Returns an image of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), "uint8")


def make(task, seed=0, **arguments):
    """Returns a task by its name, with the initial weights of a seed."""
    keras.utils.set_random_seed(seed)
    return TASKS[task](**arguments)
