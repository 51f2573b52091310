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


def depthwise_conv2d(inputs, kernel, strides, padding):
    """Convolves each channel with its own kernel.

    Args:
        inputs: (batch, height, width, channels).
        kernel: (kernel_height, kernel_width, channels, 1).
        strides: int, the same along both axes.
        padding: int, zeros on each of the four sides.

    Returns:
        (batch, out_height, out_width, channels) with
        `out = (size + 2 * padding - kernel) // strides + 1`.
    """
    return _FORMULATIONS[keras.config.backend()](inputs, kernel, strides, padding)


def depthwise_supports_xla():
    """Whether a compiled model should let XLA have its depthwise convolutions."""
    if keras.config.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def _tensorflow(inputs, kernel, strides, padding):
    import tensorflow as tf

    # Explicit padding in this operation crashes the graph optimizer of TensorFlow 2.21
    # on maps of unknown size; "SAME" is the same thing where nothing is strided over.
    if strides == 1 and all(size == 2 * padding + 1 for size in kernel.shape[:2]):
        return tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "SAME")
    padded = tf.pad(inputs, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    return tf.nn.depthwise_conv2d(padded, kernel, [1, strides, strides, 1], "VALID")


def _torch(inputs, kernel, strides, padding):
    import torch

    outputs = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel.permute(2, 3, 0, 1),
        stride=strides,
        padding=padding,
        groups=inputs.shape[-1],
    )
    return outputs.permute(0, 2, 3, 1)


def _jax(inputs, kernel, strides, padding):
    return _jax_depthwise()(inputs, kernel, strides, padding)


_FORMULATIONS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


@functools.cache
def _jax_depthwise():
    """Builds the JAX function once: it needs jax at definition time."""
    import jax
    from jax import numpy as jnp

    def convolution(inputs, kernel, strides, padding):
        return jax.lax.conv_general_dilated(
            inputs,
            jnp.swapaxes(kernel, 2, 3),
            (strides, strides),
            [(padding, padding), (padding, padding)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=inputs.shape[-1],
        )

    def shifted_products(inputs, kernel, strides, padding):
        padded = _pad(inputs, padding, padding)
        out_height, out_width = _output_size(inputs, kernel, strides, padding)
        total = 0.0
        for row in range(kernel.shape[0]):
            for column in range(kernel.shape[1]):
                window = _window(padded, row, column, out_height, out_width, strides)
                # One rounding at the end, as a convolution has it in half precision.
                total += window.astype("float32") * kernel[row, column, :, 0].astype("float32")
        return total.astype(inputs.dtype)

    def shifted_gradients(inputs, kernel, cotangent, strides, padding):
        return (
            _input_gradient(inputs, kernel, cotangent, strides, padding),
            _kernel_gradient(inputs, kernel, cotangent, strides, padding),
        )

    def convolution_gradients(inputs, kernel, cotangent, strides, padding):
        def forward(inputs, kernel):
            return convolution(inputs, kernel, strides, padding)

        return jax.vjp(forward, inputs, kernel)[1](cotangent)

    def _input_gradient(inputs, kernel, cotangent, strides, padding):
        # Input pixels fall into strides**2 phases; each phase meets its own subset of
        # taps, and its gradient is a stride-1 correlation with that subset flipped.
        batch, height, width, channels = inputs.shape
        rows = -(-(height + 2 * padding) // strides)
        columns = -(-(width + 2 * padding) // strides)
        phases = []
        for row in range(strides):
            for column in range(strides):
                taps = kernel[row::strides, column::strides][::-1, ::-1]
                top, left = taps.shape[0] - 1, taps.shape[1] - 1
                bottom, right = rows - cotangent.shape[1], columns - cotangent.shape[2]
                padded = _pad(cotangent, (top, bottom), (left, right))
                phases.append(shifted_products(padded, taps, 1, 0))
        gradient = jnp.stack(phases, axis=3).reshape(
            batch, rows, columns, strides, strides, channels
        )
        gradient = gradient.swapaxes(2, 3).reshape(
            batch, rows * strides, columns * strides, channels
        )
        return gradient[:, padding : padding + height, padding : padding + width]

    def _kernel_gradient(inputs, kernel, cotangent, strides, padding):
        # Image by image, so that the maps of one image stay in cache for all the taps;
        # row by row of the kernel, as unrolled taps are slow to compile.
        _, out_height, out_width, channels = cotangent.shape
        rows, columns = kernel.shape[:2]

        def add_image(total, image):
            padded, cotangent = (array[None].astype("float32") for array in image)

            def one_row(row):
                band = jax.lax.dynamic_slice_in_dim(padded, row, padded.shape[1] - rows + 1, 1)
                windows = (
                    _window(band, 0, column, out_height, out_width, strides)
                    for column in range(columns)
                )
                return jnp.stack([jnp.sum(window * cotangent, (0, 1, 2)) for window in windows])

            return total + jax.lax.map(one_row, jnp.arange(rows)), None

        start = jnp.zeros((rows, columns, channels), "float32")
        total, _ = jax.lax.scan(add_image, start, (_pad(inputs, padding, padding), cotangent))
        return total[..., None].astype(kernel.dtype)

    def _pad(maps, rows, columns):
        rows, columns = (
            sides if isinstance(sides, tuple) else (sides, sides) for sides in (rows, columns)
        )
        return jnp.pad(maps, ((0, 0), rows, columns, (0, 0)))

    def _window(padded, row, column, out_height, out_width, strides):
        return padded[
            :,
            row : row + (out_height - 1) * strides + 1 : strides,
            column : column + (out_width - 1) * strides + 1 : strides,
        ]

    def _output_size(inputs, kernel, strides, padding):
        return (
            (inputs.shape[axis + 1] + 2 * padding - kernel.shape[axis]) // strides + 1
            for axis in range(2)
        )

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    @functools.partial(jax.jit, static_argnums=(2, 3))
    def depthwise(inputs, kernel, strides, padding):
        return jax.lax.platform_dependent(
            inputs,
            kernel,
            cpu=lambda *arrays: shifted_products(*arrays, strides, padding),
            default=lambda *arrays: convolution(*arrays, strides, padding),
        )

    def forward(inputs, kernel, strides, padding):
        return depthwise(inputs, kernel, strides, padding), (inputs, kernel)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def backward(strides, padding, residuals, cotangent):
        return jax.lax.platform_dependent(
            *residuals,
            cotangent,
            cpu=lambda *arrays: shifted_gradients(*arrays, strides, padding),
            default=lambda *arrays: convolution_gradients(*arrays, strides, padding),
        )

    depthwise.defvjp(forward, backward)
    return depthwise
