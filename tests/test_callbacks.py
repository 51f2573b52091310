"""Evaluation of a detector in `fit`, with a fake detector."""

import keras
import numpy as np
import pytest

from keras_spm.callbacks import CocoEvaluation
from keras_spm.metrics import coco_average_precision

COUNT = 5


class Detector(keras.Model):
    """Learns the identity, and detects one box per image whose width is its output."""

    def __init__(self):
        inputs = keras.Input((1,))
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        super().__init__(inputs, layer(inputs))
        self.batches = []

    def detect(self, images, batch_size=8):
        self.batches.append((len(images), batch_size))
        widths = self.predict_on_batch(np.stack(images))[:, 0]
        return [
            {
                "boxes": np.array([[0, 0, 40 * width, 40]]),
                "scores": np.ones(1),
                "labels": np.zeros(1, int),
            }
            for width in widths
        ]


class Examples:
    """Images are single ones; each has a box 40 pixels wide."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.read.append(range(COUNT)[index])
        return {
            "image": np.ones(1, "float32"),
            "boxes": np.array([[0, 0, 40, 40]], "float32"),
            "labels": np.array([0]),
            "crowd": np.array([False]),
            "areas": np.array([1600.0]),
        }


def _fit(callbacks, epochs):
    """Full-batch descent after which the width is 0.4, 0.64, 0.784, … of the target."""
    keras.utils.set_random_seed(0)
    model = Detector()
    model.compile(keras.optimizers.SGD(0.2), "mse")
    ones = np.ones((8, 1), "float32")
    history = model.fit(ones, ones, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0)
    return model, history.history


def test_results_of_every_epoch():
    examples = Examples()
    model, history = _fit([CocoEvaluation(examples, batch_size=2)], epochs=4)
    # The IoU equals the width: 0.4, 0.64, 0.784 and 0.8704 reach 0, 3, 6 and 8 of the ten
    # thresholds.
    assert history["val_AP"] == pytest.approx([0, 0.3, 0.6, 0.8])
    assert history["val_AP50"] == pytest.approx([0, 1, 1, 1])
    assert history["val_AP_small"] == [-1] * 4
    last = model.detect([examples[index]["image"] for index in range(COUNT)])
    expected = coco_average_precision(examples, last)
    assert {name: history[f"val_{name}"][-1] for name in expected} == expected


def test_images_are_read_once_and_in_batches():
    examples = Examples()
    model, _ = _fit([CocoEvaluation(examples, batch_size=2)], epochs=1)
    assert examples.read == list(range(COUNT))
    assert model.batches == [(2, 2), (2, 2), (1, 2)]


@pytest.mark.filterwarnings("ignore:Can save best model only with test_AP")
def test_later_callbacks_see_the_results(tmp_path):
    evaluation = CocoEvaluation(Examples(), every=2, prefix="test_")
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"),
        monitor="test_AP",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    model, history = _fit([evaluation, checkpoint], epochs=5)
    # From the second epoch on.
    assert history["test_AP"] == pytest.approx([0.3, 0.3, 0.8, 0.8])
    # Epochs before the first evaluation are saved; later ones never replace a better one.
    assert sorted(path.name[0] for path in tmp_path.glob("*.h5")) == ["1", "2", "4"]
    assert len(model.batches) == 2


@pytest.mark.filterwarnings("ignore:Early stopping conditioned on metric `val_AP`")
def test_early_stopping_waits_for_the_first_evaluation():
    evaluation = CocoEvaluation(Examples(), every=5)
    stopping = keras.callbacks.EarlyStopping("val_AP", mode="max", patience=3)
    model, history = _fit([evaluation, stopping], epochs=9)
    assert len(history["loss"]) == 8 and len(model.batches) == 1


def test_training_is_unchanged():
    with_it, _ = _fit([CocoEvaluation(Examples())], epochs=3)
    without, _ = _fit([], epochs=3)
    np.testing.assert_array_equal(with_it.get_weights()[0], without.get_weights()[0])


def test_every_must_be_positive():
    with pytest.raises(ValueError, match="`every` must be at least 1. Received: every=0"):
        CocoEvaluation([], every=0)
