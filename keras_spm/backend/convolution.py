"""Convolution, formulated per framework.

PyTorch: Keras pads the maps and copies them to another layout. A permuted view and a kernel
in the same layout need no copy. The convolution from 64 to 128 channels between the first
stages of PVT v2 takes 3 / 24 ms instead of 18 / 28 forward / forward and backward, the stem
2 / 23 ms instead of 10 / 36 (two shared CPU cores, float32, batch 8, 224x224 pixels).

JAX: XLA on CPU has a slow gradient for convolutions of non-overlapping patches, which are
computed as dense layers.
"""

import keras
from keras import ops

from keras_spm.backend.dense import add_bias, dense
from keras_spm.backend.resizing import pad
from keras_spm.types import Tensor


def conv2d(
    inputs: Tensor, kernel: Tensor, strides: int, padding: int, bias: Tensor | None = None
) -> Tensor:
    """Convolves maps.

    Args:
        inputs: (batch, height, width, channels).
        kernel: (kernel_height, kernel_width, channels, filters).
        strides: int, of both axes.
        padding: int, zeros on each of the four sides.
        bias: optional (filters,).

    Returns:
        (batch, out_height, out_width, filters) with
        `out = (size + 2 * padding - kernel) // strides + 1`.
    """
    if keras.config.backend() == "torch":
        return _torch(inputs, kernel, strides, padding, bias)
    if keras.config.backend() == "jax" and not padding and kernel.shape[:2] == (strides, strides):
        return _dense_patches(inputs, kernel, bias)
    if padding:
        inputs = pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    outputs = ops.conv(inputs, kernel, strides, "valid", data_format="channels_last")
    return add_bias(outputs, bias)


def _torch(inputs, kernel, strides, padding, bias):
    import torch

    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    outputs = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2), kernel, bias, stride=strides, padding=padding
    )
    return outputs.permute(0, 2, 3, 1)


def _dense_patches(inputs, kernel, bias):
    """Convolves non-overlapping patches; incomplete patches are ignored."""
    size, _, channels, filters = kernel.shape
    _, height, width, _ = inputs.shape
    rows, columns = height // size, width // size
    patches = inputs[:, : rows * size, : columns * size]
    patches = ops.reshape(patches, (-1, rows, size, columns, size, channels))
    patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
    patches = ops.reshape(patches, (-1, rows, columns, size * size * channels))
    return dense(patches, ops.reshape(kernel, (-1, filters)), bias)
