"""Batch and layer normalization, formulated per framework.

PyTorch and TensorFlow have batch normalization in training as one operation with its own
gradient, which saves passes over the map: eight 56x56 maps of 128 channels take 15 ms
instead of 98 under PyTorch, and 8 instead of 38 under TensorFlow. XLA fuses the parts itself.

Layer normalization under TensorFlow makes one pass over the map forward and one backward,
and its gradient keeps only the inputs.
"""

import math

import keras
from keras import ops

from keras_spm.backend.dense import sum_of_positions
from keras_spm.backend.elementwise import xla_compiled
from keras_spm.backend.exporting import is_exporting
from keras_spm.backend.replicas import (
    groups_of_batch,
    has_parts,
    mean_over_replicas,
    sum_over_rows,
    synchronizes_statistics,
)
from keras_spm.types import Tensor


def batch_normalization(
    inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes each channel by its mean and variance in the batch.

    The variance is the mean of squared deviations. A difference of squares would lose
    precision for a mean far from zero.

    Args:
        inputs: (batch, …, channels), float32.
        gamma, beta: (channels,), scale and offset.
        epsilon: float, added to the variance.

    Returns:
        (outputs, mean, variance): like `inputs`, and (channels,) each. The variance is
        unbiased, `n / (n - 1)` times the one that normalizes; zero for n = 1. With replicas that
        normalize each part of the batch by itself, both are means over the parts.
    """
    if synchronizes_statistics():
        return _batch_of_replicas(inputs, gamma, beta, epsilon)
    groups = groups_of_batch()
    if groups > 1 and inputs.shape[0] is not None and inputs.shape[0] % groups == 0:
        return _batch_in_groups(inputs, gamma, beta, epsilon, groups)
    formulations = {"tensorflow": _tensorflow_batch, "jax": _batch, "torch": _torch_batch}
    outputs, mean, variance = formulations[keras.config.backend()](inputs, gamma, beta, epsilon)
    if has_parts():
        mean, variance = mean_over_replicas(mean), mean_over_replicas(variance)
    return outputs, mean, variance


def normalize(
    inputs: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> Tensor:
    """Normalizes each channel by a given mean and variance, (channels,)."""
    return xla_compiled(_normalize)(inputs, mean, variance, gamma, beta, epsilon)


def affine(
    mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Returns (scale, offset) of each channel: `normalize` computes scale * x + offset."""
    scale = gamma * ops.rsqrt(variance + epsilon)
    # PyTorch keeps the factors for the gradient; a step in training changes the running mean.
    return scale, beta - ops.copy(mean) * scale


def scaled(maps: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Returns `maps * scale + offset` of (…, channels) and (channels,), all of one dtype."""
    if keras.config.backend() != "torch" or is_exporting():
        return maps * scale + offset
    import torch

    return torch.addcmul(offset, maps, scale)  # One pass.


def scale_channels(images: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Returns `images * scale + offset` of (batch, height, width, channels), for export.

    Runtimes are slow at a last axis of three channels. With PyTorch's, the transpositions of the
    first convolution come first.
    """
    if keras.config.backend() != "torch":
        return images * scale + offset
    images = images.permute(0, 3, 1, 2) * scale[:, None, None] + offset[:, None, None]
    return images.permute(0, 2, 3, 1)


def layer_normalization(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """Normalizes the last axis of (…, channels), in float32 or more."""
    if keras.config.backend() == "torch":
        return ops.layer_normalization(inputs, gamma, beta, -1, epsilon)
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    compute_dtype = keras.backend.result_type(dtype, "float32")
    inputs, gamma, beta = (ops.cast(each, compute_dtype) for each in (inputs, gamma, beta))
    if is_exporting():
        return ops.cast(_layer_outputs(inputs, gamma, beta, epsilon), dtype)
    own_gradient = {"tensorflow": _tensorflow_layer, "jax": _jax_layer}[keras.config.backend()]
    return ops.cast(own_gradient(inputs, gamma, beta, epsilon), dtype)


def _normalize(inputs, mean, variance, gamma, beta, epsilon):
    return scaled(inputs, *affine(mean, variance, gamma, beta, epsilon))


def _batch(inputs, gamma, beta, epsilon):
    axes = tuple(range(len(inputs.shape) - 1))
    mean = ops.mean(inputs, axes)
    variance = ops.mean(ops.square(inputs - mean), axes)
    count = ops.cast(math.prod(ops.shape(inputs)[:-1]), "float32")
    outputs = normalize(inputs, mean, variance, gamma, beta, epsilon)
    return outputs, mean, variance * count / ops.maximum(count - 1, 1)


def _batch_of_replicas(inputs, gamma, beta, epsilon):
    """Normalizes a part of a batch by the statistics of all parts: two sums over replicas."""
    axes = tuple(range(len(inputs.shape) - 1))
    count = ops.cast(math.prod(ops.shape(inputs)[:-1]), "float32")
    total, count = sum_over_rows(ops.sum(inputs, axes), ops.convert_to_tensor(count))
    mean = total / count
    (squares,) = sum_over_rows(ops.sum(ops.square(inputs - mean), axes))
    outputs = normalize(inputs, mean, squares / count, gamma, beta, epsilon)
    return outputs, mean, squares / ops.maximum(count - 1, 1)


def _batch_in_groups(inputs, gamma, beta, epsilon, groups):
    """Normalizes each of several parts of a batch by its own statistics."""
    grouped = ops.reshape(inputs, (groups, -1, *ops.shape(inputs)[1:]))
    axes = tuple(range(1, len(grouped.shape) - 1))
    mean = ops.mean(grouped, axes, keepdims=True)
    variance = ops.mean(ops.square(grouped - mean), axes, keepdims=True)
    outputs = (grouped - mean) * ops.rsqrt(variance + epsilon) * gamma + beta
    count = math.prod(ops.shape(grouped)[1:-1])
    axes = tuple(range(len(grouped.shape) - 1))
    unbiased = ops.mean(variance, axes) * (count / max(count - 1, 1))
    return ops.reshape(outputs, ops.shape(inputs)), ops.mean(mean, axes), unbiased


def _torch_batch(inputs, gamma, beta, epsilon):
    import torch

    channels = inputs.shape[-1]
    if inputs.numel() == channels:  # PyTorch refuses a single value per channel.
        return _batch(inputs, gamma, beta, epsilon)
    mean, variance = torch.zeros(2, channels, device=inputs.device)
    # With momentum 1 the running statistics are those of the batch.
    outputs = torch.nn.functional.batch_norm(
        inputs.movedim(-1, 1), mean, variance, gamma, beta, True, 1.0, epsilon
    )
    return outputs.movedim(1, -1), mean, variance


def _tensorflow_batch(inputs, gamma, beta, epsilon):
    import tensorflow as tf

    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1])),
        scale=gamma,
        offset=beta,
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=epsilon,
    )
    return tf.reshape(outputs, tf.shape(inputs)), mean, variance


def _tensorflow_layer(inputs, gamma, beta, epsilon):
    import tensorflow as tf

    @tf.custom_gradient
    def normalized(inputs, gamma, beta):
        def gradients(upstream):
            input_gradient, gamma_gradients = xla_compiled(_layer_gradients)(
                inputs, gamma, upstream, epsilon
            )
            return input_gradient, sum_of_positions(gamma_gradients), sum_of_positions(upstream)

        return xla_compiled(_layer_outputs)(inputs, gamma, beta, epsilon), gradients

    return normalized(inputs, gamma, beta)


def _jax_layer(inputs, gamma, beta, epsilon):
    import jax

    @jax.custom_vjp
    def normalized(inputs, gamma, beta):
        return _layer_outputs(inputs, gamma, beta, epsilon)

    def forward(inputs, gamma, beta):
        return normalized(inputs, gamma, beta), (inputs, gamma)

    def backward(residuals, upstream):
        inputs, gamma = residuals
        input_gradient, gamma_gradients = _layer_gradients(inputs, gamma, upstream, epsilon)
        axes = tuple(range(upstream.ndim - 1))
        return input_gradient, gamma_gradients.sum(axes), upstream.sum(axes)

    normalized.defvjp(forward, backward)
    return normalized(inputs, gamma, beta)


def _standardize(inputs, epsilon):
    """Returns the inputs with mean 0 and variance 1, and the scale of their deviations."""
    deviations = inputs - ops.mean(inputs, axis=-1, keepdims=True)
    scale = ops.rsqrt(ops.mean(ops.square(deviations), axis=-1, keepdims=True) + epsilon)
    return deviations * scale, scale


def _layer_outputs(inputs, gamma, beta, epsilon):
    standardized, _ = _standardize(inputs, epsilon)
    return standardized * gamma + beta


def _layer_gradients(inputs, gamma, upstream, epsilon):
    """Returns the gradient of the inputs, and that of gamma before the sum over positions."""
    standardized, scale = _standardize(inputs, epsilon)
    gradient = upstream * gamma
    mean = ops.mean(gradient, axis=-1, keepdims=True)
    projection = ops.mean(gradient * standardized, axis=-1, keepdims=True)
    return scale * (gradient - mean - standardized * projection), upstream * standardized
