"""Training with the logits and maps of a teacher."""

import numpy as np
import pytest
from scipy.special import log_softmax

import keras_spm
from tests.helpers import error_message, randomize, tiny_backbone, to_numpy

pytestmark = pytest.mark.only("torch")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
LABELS = np.arange(8) % 3


def classifier(seed, **arguments):
    return randomize(keras_spm.ImageClassifier(tiny_backbone(), 3, **arguments), seed)


def test_loss_of_a_step():
    model, teacher = classifier(0), classifier(1)
    count = len(model.weights)
    logits, targets = (to_numpy(each(IMAGES)).astype("float64") for each in (model, teacher))
    model.distill(teacher, weight=0.3, temperature=2.0)
    history = model.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0).history
    labels = -log_softmax(logits, axis=-1)[np.arange(8), LABELS].mean()
    soft = log_softmax(targets / 2, axis=-1)
    divergence = (np.exp(soft) * (soft - log_softmax(logits / 2, axis=-1))).sum(axis=-1).mean()
    assert history["loss"][0] == pytest.approx(0.7 * labels + 0.3 * 4 * divergence, rel=1e-4)
    assert len(model.weights) == count  # The teacher is no part of the model.
    # Validation is without the teacher.
    loss = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)["loss"]
    after = -log_softmax(to_numpy(model(IMAGES)), axis=-1)[np.arange(8), LABELS].mean()
    assert loss == pytest.approx(after, rel=1e-4)


def test_maps_of_a_copy_have_no_loss():
    model, teacher = classifier(0), classifier(0)
    model.distill(teacher, weight=1.0, maps_weight=2.0)
    assert model.fit(IMAGES, LABELS, verbose=0).history["loss"][0] == pytest.approx(0, abs=1e-5)
    other = classifier(1)
    other.distill(teacher, weight=1.0, maps_weight=0.0)
    without = other.fit(IMAGES, LABELS, verbose=0).history["loss"][0]
    other = classifier(1)
    other.distill(teacher, weight=1.0, maps_weight=1.0)
    assert other.fit(IMAGES, LABELS, verbose=0).history["loss"][0] > without + 0.1


def test_invalid_arguments():
    model = classifier(0)
    teacher = classifier(1)
    for arguments, expected in (
        ({"weight": 2}, "`weight` must be a finite number, at least 0 and at most 1"),
        ({"temperature": 0}, "`temperature` must be a finite number, above 0"),
        ({"teacher": tiny_backbone()}, "`teacher` must be an `ImageClassifier` with 3 classes"),
        ({"teacher": classifier(0, activation="softmax")}, "`distill` needs models with logits"),
    ):
        assert expected in error_message(model.distill, **{"teacher": teacher, **arguments})
