"""A loss and its gradient on the backend under test, and numerical gradients."""

import keras
import numpy as np

from tests.helpers import gradients


def value_and_gradient(loss, inputs):
    """Returns (loss(inputs), gradient of its sum), numpy."""
    layer = keras.layers.Lambda(loss, autocast=False)
    layer.build(inputs.shape)
    value, _, gradient = gradients(layer, inputs, np.float32(1))
    return value, gradient


def central_differences(loss, inputs, step=1e-5):
    """Returns the numerical gradient of the sum of a NumPy loss, in float64."""
    inputs = inputs.astype("float64")
    gradient = np.empty_like(inputs)
    for index in np.ndindex(inputs.shape):
        shift = np.zeros_like(inputs)
        shift[index] = step
        gradient[index] = (loss(inputs + shift) - loss(inputs - shift)).sum() / (2 * step)
    return gradient
