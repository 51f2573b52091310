"""Gradients of functions of arrays, per framework."""

from collections.abc import Callable

import keras

from keras_spm.types import Tensor


def gradient(function: Callable[[Tensor], Tensor], array: Tensor) -> Tensor:
    """Returns the gradient of a function with a scalar result at an array, in its shape.

    The gradient with respect to variables is not computed.
    """
    formulations = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
    return formulations[keras.config.backend()](function, array)


def _jax(function, array):
    import jax

    return jax.grad(function)(array)


def _tensorflow(function, array):
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(array)
        result = function(array)
    return tape.gradient(result, array)


def _torch(function, array):
    import torch

    with torch.enable_grad():
        array = array.detach().requires_grad_()
        (result,) = torch.autograd.grad(function(array), array)
    return result
