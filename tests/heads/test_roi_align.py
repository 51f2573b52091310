"""RoIAlign against its definition, sample by sample, in float64."""

import math
import sys

import keras
import numpy as np
import pytest

from keras_spm.heads import roi_align
from keras_spm.heads.roi_align import crop_masks
from tests.heads.boxes import roi_weights
from tests.helpers import compiled, difference, random_array, to_numpy
from tests.losses.differences import value_and_gradient

TORCH = keras.config.backend() == "torch"
SIZES = {"P2": (25, 40), "P3": (13, 20), "P4": (7, 10), "P5": (4, 5)}
STRIDES = {level: 2 ** int(level[1]) for level in SIZES}


def _level(box):
    root = math.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))
    return f"P{2 + min(max(math.floor(math.log2(root / 56 + 1e-6)), 0), 3)}"


def _boxes(count, seed=0):
    """Boxes of all levels, of pixel size, elongated, over the borders, without area."""
    generator = np.random.default_rng(seed)
    centers = generator.uniform(-10, [170, 110], (2, count, 2))
    sides = np.exp(generator.uniform(np.log(0.5), np.log(1500), (2, count, 2)))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1)
    clipped = boxes.clip(0, [160, 100, 160, 100])
    boxes = np.where(generator.random((2, count, 1)) < 0.6, clipped, boxes)
    boxes[:, 0] = 0, 0, 160, 100
    boxes[:, 1, 2:] = boxes[:, 1, :2]
    boxes[:, 2, 2] = boxes[:, 2, 0]
    boxes[:, 3] = 0
    return boxes.astype("float32")


def _expected(pyramid, boxes, bins, sampling_ratio):
    pooled = np.zeros((*boxes.shape[:2], bins, bins, pyramid["P2"].shape[-1]))
    for image, number in np.ndindex(boxes.shape[:2]):
        box = boxes[image, number]
        level = _level(box)
        weights = roi_weights(box, STRIDES[level], SIZES[level], bins, sampling_ratio)
        pooled[image, number] = np.einsum("ijyx,yxc->ijc", weights, pyramid[level][image])
    return pooled


def _pyramid(channels=3):
    return {
        level: random_array(2, *size, channels, seed=seed)
        for seed, (level, size) in enumerate(SIZES.items())
    }


@pytest.mark.parametrize(
    ("bins", "sampling_ratio", "count"),
    [(7, 0, 500), (4, 2, 40), (14, 0, 30)] if TORCH else [(7, 0, 60), (4, 2, 40)],
)
def test_features_are_the_definition(bins, sampling_ratio, count):
    pyramid, boxes = _pyramid(), _boxes(count, seed=bins)
    assert len({_level(box) for image in boxes for box in image}) >= 3
    align = compiled(lambda pyramid, boxes: roi_align(pyramid, boxes, bins, sampling_ratio))
    found = align(pyramid, boxes)
    assert tuple(found.shape) == (2, count, bins, bins, 3)
    assert difference(found, _expected(pyramid, boxes, bins, sampling_ratio)) <= 2e-5


@pytest.mark.parametrize("level", SIZES if TORCH else ["P3"])
def test_gradient_is_the_definition(level):
    """The function is linear in the maps: its gradient is the weights."""
    pyramid, boxes = _pyramid(2), _boxes(250 if TORCH else 30, seed=3)
    cotangent = random_array(*boxes.shape[:2], 7, 7, 2, seed=9)

    def pooled(maps):
        return keras.ops.multiply(roi_align({**pyramid, level: maps}, boxes, 7), cotangent)

    _, gradient = value_and_gradient(pooled, pyramid[level])
    expected = np.zeros(pyramid[level].shape)
    for image, number in np.ndindex(boxes.shape[:2]):
        box = boxes[image, number]
        if _level(box) == level:
            weights = roi_weights(box, STRIDES[level], SIZES[level], 7, 0)
            expected[image] += np.einsum("ijyx,ijc->yxc", weights, cotangent[image, number])
    assert difference(gradient, expected) <= 1e-5 * np.abs(expected).max()


@pytest.mark.only("torch")
def test_half_precision():
    boxes = _boxes(40)
    pyramid = {level: keras.ops.cast(maps, "bfloat16") for level, maps in _pyramid().items()}
    found = roi_align(pyramid, boxes, 7)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    exact = {level: to_numpy(keras.ops.cast(maps, "float32")) for level, maps in pyramid.items()}
    expected = _expected(exact, boxes, 7, 0)
    assert difference(keras.ops.cast(found, "float32"), expected) <= 0.05


def test_mask_crops_are_the_definition():
    generator = np.random.default_rng(0)
    masks = generator.random((2, 3, 40, 50)) < 0.5
    boxes = _boxes(12) / 3
    indices = generator.integers(0, 3, (2, 12))
    crop = compiled(lambda *arrays: crop_masks(*arrays, 28))
    found = to_numpy(crop(masks, boxes, indices))
    for image, number in np.ndindex(2, 12):
        weights = roi_weights(boxes[image, number], 1, (40, 50), 28, 0)
        expected = np.einsum("ijyx,yx->ij", weights, masks[image, indices[image, number]])
        assert difference(found[image, number], expected) <= 1e-5


@pytest.mark.graph
@pytest.mark.only("tensorflow")  # JAX has static shapes, and compiles with XLA, in any case.
@pytest.mark.parametrize("xla", [True, False])
def test_compiled(xla, monkeypatch):
    """With XLA for known sizes, without for any."""
    import tensorflow as tf

    # XLA takes seconds for each number of cells of each group.
    monkeypatch.setattr(sys.modules[roi_align.__module__], "_GROUPS", (0.0, 1.0))
    channels = 2
    pyramid, boxes = _pyramid(channels), _boxes(30)
    cotangent = random_array(2, 30, 7, 7, channels)

    def value_and_gradients(maps, boxes):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = roi_align(maps, boxes, 7)
            total = tf.reduce_sum(pooled * cotangent)
        return pooled, tape.gradient(total, maps)

    unknown = (None, None, None, channels)
    maps = {level: tf.TensorSpec(each.shape if xla else unknown) for level, each in pyramid.items()}
    signature = [maps, tf.TensorSpec((2 if xla else None, 30, 4))]
    compiled = tf.function(value_and_gradients, signature, jit_compile=xla)
    found, gradients = compiled(pyramid, boxes)
    assert difference(found, _expected(pyramid, boxes, 7, 0)) <= 2e-5
    _, expected = value_and_gradients({n: tf.constant(m) for n, m in pyramid.items()}, boxes)
    assert all(difference(gradients[level], expected[level]) <= 1e-4 for level in SIZES)
