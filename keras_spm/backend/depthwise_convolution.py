"""Depthwise convolution, formulated per framework and platform.

The arithmetic is the same everywhere; the cost is not. Three facts, measured on
two CPU cores in float32 (a 3x3 over 512 channels of eight 56x56 maps, forward /
forward and backward):

- PyTorch's own convolution takes the padding itself and reads channels_last maps
  through a permuted view: 16 / 56 ms, against 108 / 141 ms where the map is padded
  and made contiguous first.
- XLA's grouped convolution on CPU is naive: 306 / 1083 ms under JAX, against
  34 / 66 ms as a sum of shifted products with a gradient of its own. On GPU and
  TPU the convolution is the right form, so a program chooses when it is lowered.
- TensorFlow's kernel is fast (10 / 28 ms), but not when XLA replaces it
  (569 / 1037 ms): on a CPU, XLA is the wrong choice for the whole model.
"""

import functools

import keras

from keras_spm.backend import shifted_products
from keras_spm.backend.bias import add_bias


def depthwise_conv2d(inputs, kernel, strides, padding, bias=None):
    """Convolves each channel with its own kernel.

    Args:
        inputs: (batch, height, width, channels).
        kernel: (kernel_height, kernel_width, channels, 1).
        strides: int, the same along both axes.
        padding: int, zeros on each of the four sides.
        bias: (channels,), or None.

    Returns:
        (batch, out_height, out_width, channels) with
        `out = (size + 2 * padding - kernel) // strides + 1`.
    """
    return _FORMULATIONS[keras.config.backend()](inputs, kernel, strides, padding, bias)


def depthwise_supports_xla():
    """Whether a compiled model should let XLA have its depthwise convolutions."""
    if keras.config.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def _tensorflow(inputs, kernel, strides, padding, bias):
    import tensorflow as tf

    # Explicit padding in this operation crashes the graph optimizer of TensorFlow 2.21
    # on maps of unknown size; "SAME" is the same thing where nothing is strided over.
    if strides == 1 and all(size == 2 * padding + 1 for size in kernel.shape[:2]):
        outputs = tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "SAME")
    else:
        padded = tf.pad(inputs, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
        outputs = tf.nn.depthwise_conv2d(padded, kernel, [1, strides, strides, 1], "VALID")
    return outputs if bias is None else add_bias(outputs, bias)


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


def _jax(inputs, kernel, strides, padding, bias):
    outputs = _jax_depthwise()(inputs, kernel, strides, padding)
    return outputs if bias is None else add_bias(outputs, bias)


_FORMULATIONS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


@functools.cache
def _jax_depthwise():
    """Makes the JAX function, whose form is chosen when a program is lowered.

    Made once, at the first call, as JAX may not be installed. It has a gradient of its
    own in reverse mode, and none in forward mode.
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
