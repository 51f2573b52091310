"""Closed-form initialization of Stepwise Patch Merging from another merging.

Multi-Scale Aggregation starts as a linear map, because GELU(x) - GELU(-x) = x, and Guided Local
Enhancement as the mean of its tokens: with a query of zero, all attention weights are equal.
Before the last normalization, the layer then is a sum of separable convolutions. Its kernels
approximate those of the other merging, and the map of values is the least-squares solution for
given inputs and outputs.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_spm.layers.batch_normalization import BatchNormalization
from keras_spm.layers.guided_local_enhancement import WINDOW, GuidedLocalEnhancement
from keras_spm.layers.multi_scale_aggregation import MultiScaleAggregation
from keras_spm.layers.stepwise_patch_merging import StepwisePatchMerging

# Of the least-squares problems, relative to the mean of the diagonal.
_KERNEL_RIDGE, _VALUE_RIDGE = 0.02, 0.02
_MIN_SCALE = 1e-3  # Smaller scales of the other merging's normalization count as zero.

_to_numpy = keras.ops.convert_to_numpy


def initialize(
    spm: StepwisePatchMerging,
    default: keras.layers.Layer,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
) -> None:
    """Initializes `spm` to approximate `default`.

    Args:
        spm: unfused layer.
        default: merging with `as_convolution`, and optionally `output_norm`.
        inputs, outputs: batches of maps of `default`.
    """
    aggregation, enhancement = spm.steps
    kernel, padding = default.as_convolution()
    _initialize_aggregation(aggregation, kernel, padding, inputs)
    maps = [_to_numpy(aggregation(each)) for each in inputs]
    _initialize_enhancement(enhancement, getattr(default, "output_norm", None), maps, outputs)


def can_initialize(spm: keras.layers.Layer, default: keras.layers.Layer) -> bool:
    """Returns whether `initialize` knows both layers."""
    if not isinstance(spm, StepwisePatchMerging) or not hasattr(default, "as_convolution"):
        return False
    return spm.expansion >= 2


def batch_statistics(
    norm: BatchNormalization, run: Callable[[np.ndarray], object], batches: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (mean, variance) that a batch normalization has in training.

    Args:
        norm: the layer. Its moving statistics are changed.
        run: function of a batch that calls `norm` in training mode.
        batches: batches; the statistics are the mean over them.
    """
    momentum, norm.momentum = norm.momentum, 0.0
    try:
        statistics = []
        for batch in batches:
            run(batch)
            statistics.append([_to_numpy(norm.moving_mean), _to_numpy(norm.moving_variance)])
    finally:
        norm.momentum = momentum
    mean, variance = np.mean(statistics, axis=0, dtype="float64")
    return mean, variance


def _initialize_aggregation(
    layer: MultiScaleAggregation, kernel: np.ndarray, padding: int, inputs: Sequence[np.ndarray]
) -> None:
    """Sets the mean of a window's outputs to the best separable approximation of `kernel`."""
    filters, rows = _separate(kernel)
    scales = len(layer.kernel_sizes)
    for depthwise, split in zip(layer.depthwise, np.split(filters, scales), strict=True):
        depthwise.kernel.assign(_spread_over_window(split, depthwise.kernel_size[0], padding))
        depthwise.bias.assign(np.zeros(depthwise.bias.shape))
    # Outputs k and `scales + k` of group l are channel l of split k and its negative.
    grouped = np.zeros(layer.grouped_kernel.shape)
    for split in range(scales):
        grouped[split, :, split] = 1
        grouped[split, :, scales + split] = -1
    layer.grouped_kernel.assign(grouped)
    layer.grouped_bias.assign(np.zeros(layer.grouped_bias.shape))
    mean, variance = batch_statistics(layer.norm, lambda x: layer(x, training=True), inputs)
    layer.norm.set_weights([np.ones(mean.shape), np.zeros(mean.shape), mean, variance])
    # GELU(x) - GELU(-x) = x, so the projection has the rows twice, with both signs. It undoes
    # the normalization; the mean is a constant, which the next normalization removes.
    std = np.sqrt(variance + layer.norm.epsilon).reshape(-1, scales * layer.expansion)
    rows = rows.reshape(scales, -1, rows.shape[-1])  # (split, group, outputs)
    projection = np.zeros((*std.shape, rows.shape[-1]))
    for split in range(scales):
        projection[:, split] = std[:, split, None] * rows[split]
        projection[:, scales + split] = -projection[:, split]
    layer.projection.set_weights([projection.reshape(-1, rows.shape[-1]), np.zeros(rows.shape[-1])])


def _separate(kernel):
    """Returns the best separable approximation of a convolution.

    Args:
        kernel: (height, width, channels, outputs).

    Returns:
        (filters (channels, height, width), rows (channels, outputs)).
    """
    height, width, channels, outputs = kernel.shape
    matrices = kernel.transpose(2, 0, 1, 3).reshape(channels, height * width, outputs)
    left, singular, right = np.linalg.svd(matrices.astype("float64"), full_matrices=False)
    return left[:, :, 0].reshape(-1, height, width), singular[:, :1] * right[:, 0]


def _spread_over_window(filters, size, padding):
    """Returns a depthwise kernel whose outputs have the mean `filters` * input in each window.

    Args:
        filters: (channels, height, width), of a strided convolution.
        size: int, height and width of the kernel.
        padding: int, of the strided convolution.
    """
    # Offsets of the inputs of a window, which the kernel reaches from its four positions.
    radius, reach = size // 2, size + WINDOW - 1
    weights = np.zeros((reach, size))
    for position in range(WINDOW):
        weights[position : position + size] += np.eye(size) / WINDOW
    weights = np.kron(weights, weights)  # Of rows and columns.
    targets = np.zeros((len(filters), reach, reach))
    for row, column in np.ndindex(*filters.shape[1:]):
        at = (row - padding + radius, column - padding + radius)
        if min(at) >= 0 and max(at) < reach:
            targets[:, at[0], at[1]] = filters[:, row, column]
    gram = weights.T @ weights
    gram += _KERNEL_RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernels = np.linalg.solve(gram, weights.T @ targets.reshape(len(filters), -1).T)
    return kernels.reshape(size, size, len(filters), 1)


def _initialize_enhancement(
    layer: GuidedLocalEnhancement,
    output_norm: keras.layers.LayerNormalization | None,
    maps: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
) -> None:
    """Sets the values to the least-squares solution, and the last normalization to the other's."""
    channels = layer.qkv_bias.shape[0] // 3
    statistics = batch_statistics(layer.guide_norm, lambda x: layer.attend(x, training=True), maps)
    layer.guide_norm.set_weights([np.ones(channels), np.zeros(channels), *statistics])
    center = np.zeros(layer.guide_depthwise.kernel.shape)
    center[center.shape[0] // 2, center.shape[1] // 2] = 1
    layer.guide_depthwise.set_weights([center, np.zeros(channels)])
    # With a query of zero, all tokens have the same weight. The key's kernel stays random.
    kernel = _to_numpy(layer.qkv_kernel).astype("float64")
    kernel[:, :channels] = 0
    kernel[:, 2 * channels :] = np.eye(channels)
    layer.qkv_kernel.assign(kernel)
    layer.qkv_bias.assign(np.zeros(3 * channels))
    tokens = np.concatenate([_rows(layer.attend(each)) for each in maps])
    outputs = np.concatenate([_rows(each) for each in outputs])
    if output_norm is None:
        gamma, beta = np.full(channels, outputs.std()), outputs.mean(axis=0)
    else:
        gamma, beta = (_to_numpy(each) for each in (output_norm.gamma, output_norm.beta))
    is_used = np.abs(gamma) > _MIN_SCALE
    targets = np.where(is_used, (outputs - beta) / np.where(is_used, gamma, 1), 0)
    values, bias = _least_squares(tokens, targets)
    kernel[:, 2 * channels :] = values
    layer.qkv_kernel.assign(kernel)
    layer.qkv_bias.assign(np.concatenate([np.zeros(2 * channels), bias]))
    if output_norm is None:
        # The best scale and offset of each channel after the normalization.
        layer.output_norm.set_weights([np.ones(channels), np.zeros(channels)])
        normalized = _to_numpy(layer.output_norm(tokens @ values + bias)).astype("float64")
        centered = normalized - normalized.mean(axis=0)
        gamma = (centered * outputs).sum(axis=0) / np.maximum((centered**2).sum(axis=0), 1e-12)
        beta = outputs.mean(axis=0) - gamma * normalized.mean(axis=0)
    layer.output_norm.set_weights([gamma, beta])


def _least_squares(inputs, targets):
    """Returns the (kernel, bias) of a ridge regression towards a multiple of the identity."""
    mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    inputs, targets = inputs - mean, targets - target_mean
    gram, products = inputs.T @ inputs, inputs.T @ targets
    scale = np.trace(products) / max(np.trace(gram), 1e-12)
    ridge = _VALUE_RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = np.linalg.solve(gram + ridge, products + scale * ridge)
    return kernel, target_mean - mean @ kernel


def _rows(maps):
    maps = _to_numpy(maps)
    return maps.reshape(-1, maps.shape[-1]).astype("float64")
