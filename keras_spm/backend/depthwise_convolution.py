"""Depthwise convolution, formulated per framework and platform.

Measured on two CPU cores in float32, a 3x3 over 512 channels of eight 56x56 maps, forward /
forward and backward:

- PyTorch's convolution pads by itself and reads channels_last maps through a permuted view:
  16 / 56 ms, against 108 / 141 ms for a map that is padded and made contiguous first.
- XLA's grouped convolution on CPU is naive: 306 / 1083 ms under JAX, against 34 / 66 ms as
  a sum of shifted products with a custom gradient. On GPU and TPU the convolution is the
  right form, so a program chooses when it is lowered.
- TensorFlow's kernel is fast (10 / 28 ms), but XLA replaces it (569 / 1037 ms): on a CPU,
  XLA is the wrong choice for the whole model.

`depthwise_scales`, with four kernel sizes from 3 to 9 on eight 56x56 maps of 64 channels,
separately and as one kernel: PyTorch 4.3 and 2.7 ms, TensorFlow 6.1 and 4.5 ms, JAX 6.5 and
12.3 ms. PyTorch and TensorFlow multiply zeros faster than they split and join the map. JAX
on CPU computes tap by tap, so zeros cost as much as other taps.
"""

import functools

import keras
from keras import ops

from keras_spm.backend import shifted_products
from keras_spm.backend.dense import add_bias
from keras_spm.backend.resizing import pad
from keras_spm.types import Tensor


def depthwise_conv2d(
    inputs: Tensor, kernel: Tensor, strides: int, padding: int, bias: Tensor | None = None
) -> Tensor:
    """Convolves each channel with its own kernel.

    Args:
        inputs: (batch, height, width, channels).
        kernel: (kernel_height, kernel_width, channels, 1).
        strides: int, of both axes.
        padding: int, zeros on each of the four sides.
        bias: optional (channels,).

    Returns:
        (batch, out_height, out_width, channels) with
        `out = (size + 2 * padding - kernel) // strides + 1`.
    """
    if keras.config.backend() == "torch":
        return _torch(inputs, kernel, strides, padding, bias)
    if keras.config.backend() == "jax":
        return add_bias(_jax_depthwise()(inputs, kernel, strides, padding), bias)
    return add_bias(_tensorflow(inputs, kernel, strides, padding), bias)


def depthwise_supports_xla() -> bool:
    """Returns whether XLA may compile models with depthwise convolutions."""
    if keras.config.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def depthwise_scales_are_faster() -> bool:
    """Returns whether `depthwise_scales` is faster than one convolution per kernel size."""
    return keras.config.backend() != "jax"


def depthwise_scales(inputs: Tensor, kernels: list[Tensor]) -> Tensor:
    """Convolves equal splits of the channels with kernels of several sizes, in one convolution.

    Small kernels are padded with zeros to the largest size. This is for inference: training
    would train the zeros.

    Args:
        inputs: (batch, height, width, channels).
        kernels: one per split, (size, size, channels / scales, 1), of odd sizes.

    Returns:
        (batch, height, width, scales, channels / scales)
    """
    largest = max(kernel.shape[0] for kernel in kernels)
    kernel = ops.concatenate([_padded_kernel(kernel, largest) for kernel in kernels], axis=2)
    outputs = depthwise_conv2d(inputs, kernel, 1, largest // 2)
    return ops.reshape(outputs, (*ops.shape(inputs)[:-1], len(kernels), kernels[0].shape[2]))


def _padded_kernel(kernel, size):
    border = (size - kernel.shape[0]) // 2
    return pad(kernel, ((border, border), (border, border), (0, 0), (0, 0)))


def _tensorflow(inputs, kernel, strides, padding):
    import tensorflow as tf

    # Explicit padding in this operation crashes the graph optimizer of TensorFlow 2.21 on
    # maps of unknown size. With strides of 1 "SAME" is equivalent.
    if strides == 1 and all(size == 2 * padding + 1 for size in kernel.shape[:2]):
        return tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "SAME")
    padded = tf.pad(inputs, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    return tf.nn.depthwise_conv2d(padded, kernel, [1, strides, strides, 1], "VALID")


def _torch(inputs, kernel, strides, padding, bias):
    import torch

    outputs = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel.permute(2, 3, 0, 1),
        bias,
        stride=strides,
        padding=padding,
        groups=inputs.shape[-1],
    )
    return outputs.permute(0, 2, 3, 1)


@functools.cache
def _jax_depthwise():
    """Returns the JAX function, which chooses its form when a program is lowered.

    It has a custom gradient in reverse mode, and none in forward mode.
    """
    import jax

    def on_platform(on_cpu, elsewhere, *arrays):
        return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    @functools.partial(jax.jit, static_argnums=(2, 3))
    def depthwise(inputs, kernel, strides, padding):
        return on_platform(
            lambda *arrays: shifted_products.forward(*arrays, strides, padding),
            lambda *arrays: _jax_convolution(*arrays, strides, padding),
            inputs,
            kernel,
        )

    def forward(inputs, kernel, strides, padding):
        return depthwise(inputs, kernel, strides, padding), (inputs, kernel)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def backward(strides, padding, residuals, cotangent):
        def by_shifted_products(*arrays):
            return (
                shifted_products.input_gradient(*arrays, strides, padding),
                shifted_products.kernel_gradient(*arrays, strides, padding),
            )

        def by_convolution(inputs, kernel, cotangent):
            def convolution(inputs, kernel):
                return _jax_convolution(inputs, kernel, strides, padding)

            return jax.vjp(convolution, inputs, kernel)[1](cotangent)

        return on_platform(by_shifted_products, by_convolution, *residuals, cotangent)

    depthwise.defvjp(forward, backward)
    return depthwise


def _jax_convolution(inputs, kernel, strides, padding):
    import jax

    return jax.lax.conv_general_dilated(
        inputs,
        kernel.swapaxes(2, 3),
        (strides, strides),
        [(padding, padding), (padding, padding)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=inputs.shape[-1],
    )
