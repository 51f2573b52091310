"""Tasks stay usable after errors and Ctrl-C, in several threads, and with other data."""

import concurrent.futures
import threading

import keras
import numpy as np
import pytest

from keras_spm import ImageClassifier, ObjectDetector
from keras_spm.backend.trainer import SafeTrainer
from keras_spm.heads import RetinaNet
from tests.helpers import difference, tiny_backbone


@pytest.fixture(scope="module")
def model():
    model = ImageClassifier(tiny_backbone(), 3)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def _images(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype="uint8")


_LABELS = np.array([0, 2, 1, 0])


def _batches(count, error=None):
    """Yields batches of two, then raises."""
    for index in range(count):
        rows = slice(2 * (index % 2), 2 * (index % 2) + 2)
        yield _images()[rows], _LABELS[rows]
    if error is not None:
        raise error


class _Interruption(keras.callbacks.Callback):
    """Raises `KeyboardInterrupt` at the end of the second batch."""

    def _interrupt(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt

    on_train_batch_end = on_test_batch_end = on_predict_batch_end = _interrupt


@pytest.mark.graph
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("kind", ["callback", "data"])
def test_an_interrupted_training_keeps_its_complete_steps(model, kind):
    before = model.get_weights()
    model.fit(_batches(2), steps_per_epoch=2, verbose=0)
    expected = model.get_weights()
    assert difference(expected[-2], before[-2]) > 0
    model.set_weights(before)
    if kind == "callback":
        with pytest.raises(KeyboardInterrupt):
            model.fit(_batches(4), steps_per_epoch=4, callbacks=[_Interruption()], verbose=0)
    else:
        with pytest.raises(Exception, match="no more"):
            model.fit(_batches(2, OSError("no more")), steps_per_epoch=4, verbose=0)
    for left, right in zip(model.get_weights(), expected, strict=True):
        assert difference(left, right) <= 1e-6
    model.evaluate(_images(), _LABELS, verbose=0)


def test_other_interrupted_loops_change_nothing(model, tmp_path):
    images = _images()
    expected, weights = model.predict(images, verbose=0), model.get_weights()
    arguments = {"batch_size": 1, "callbacks": [_Interruption()], "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        model.predict(images, **arguments)
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(images, _LABELS, **arguments)
    for refused in (np.zeros((2, 32, 32, 4), "uint8"), np.zeros((2, 32), "uint8")):
        with pytest.raises(Exception):  # noqa: B017, each backend has its own error.
            model.predict(refused, verbose=0)
        with pytest.raises(Exception):  # noqa: B017
            model.predict_on_batch(refused)
        with pytest.raises(Exception):  # noqa: B017
            model.train_on_batch(refused, _LABELS[:2])
    assert all(map(np.array_equal, weights, model.get_weights()))
    assert difference(model.predict(images, verbose=0), expected) == 0
    model.save(tmp_path / "model.keras")


def test_predictions_inside_of_an_epoch(model):
    """A callback may predict between two steps; the training goes on as without."""

    class Prediction(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.classify(_images(1)[0])

    weights, results = model.get_weights(), []
    for callbacks in ([], [Prediction()]):
        model.set_weights(weights)
        model.fit(_images(), _LABELS, 2, shuffle=False, callbacks=callbacks, verbose=0)
        results.append(model.get_weights())
    for left, right in zip(*results, strict=True):
        assert difference(left, right) <= 1e-6


@pytest.mark.parametrize("use_ema", [pytest.param(False, marks=pytest.mark.only("torch")), True])
def test_layers_that_were_frozen_after_a_training(use_ema):
    model = ImageClassifier(tiny_backbone(), 3)
    model.compile(keras.optimizers.SGD(0.1, use_ema=use_ema))
    model.train_on_batch(_images(), _LABELS)
    model.backbone.freeze()
    with pytest.raises(ValueError, match="frozen or unfrozen since the optimizer was built"):
        model.fit(_images(), _LABELS, verbose=0)
    model.freeze()
    before = model.get_weights()
    model.fit(_images(), _LABELS, verbose=0)
    for variable, old in zip(model.weights, before, strict=True):
        changed = difference(variable, old) > 0
        assert changed == variable.path.startswith("head/"), variable.path


def _detector():
    head = RetinaNet(pyramid_channels=8, channels=8, num_convs=1, score_threshold=0.0)
    return ObjectDetector(tiny_backbone(), 3, head)


@pytest.mark.graph
@pytest.mark.parametrize("method", ["classify", "detect"])
def test_predictions_in_several_threads(model, method):
    predict = getattr(model if method == "classify" else _detector(), method)
    images = list(_images(6))
    expected = [predict(image) for image in images]
    start = threading.Barrier(6)

    def predict_often(image):
        start.wait()
        return [predict(image) for _ in range(3)]

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        results = list(threads.map(predict_often, images))
    for wanted, found in zip(expected, results, strict=True):
        for each in found:
            pairs = zip(keras.tree.flatten(each), keras.tree.flatten(wanted), strict=True)
            assert all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.graph
def test_weights_of_other_rank():
    """A graph of TensorFlow for both would have weights of unknown rank."""

    class Model(SafeTrainer, keras.Model):
        def build(self, input_shape):
            self.factor = self.add_weight(shape=(), initializer="ones")

        def call(self, inputs):
            return inputs * self.factor

    model = Model()
    model.compile(keras.optimizers.SGD(0.0), "mae")
    inputs, targets = np.float32([[3], [5]]), np.zeros((2, 1), "float32")
    for weights in (np.float32([2, 4]), np.float32([[2], [4]])):
        history = model.fit(inputs, targets, sample_weight=weights, verbose=0).history
        losses = [
            *history["loss"],
            model.evaluate(inputs, targets, sample_weight=weights, verbose=0),
            model.train_on_batch(inputs, targets, sample_weight=weights),
            model.test_on_batch(inputs, targets, sample_weight=weights),
        ]
        assert losses == pytest.approx([(2 * 3 + 4 * 5) / 2] * 4, rel=1e-6)
