"""Convolution and depthwise convolution, formulated per framework and platform.

Times are forward and backward on two CPU cores in float32, for eight images.

PyTorch: Keras pads the maps and copies them to another layout. A permuted view and a kernel
in the same layout need no copy, and PyTorch's convolution pads by itself: the stem of PVT v2
takes 23 ms instead of 36, a depthwise 3x3 over 512 channels of 56x56 maps 56 instead of 141.
But the kernel is copied. Non-overlapping patches are dense layers, which takes 2 ms instead of
4 for one image and 10 instead of 15 for eight (8x8 over 64 channels of 56x56 maps; one core).
Where a small map has fewer patches than the kernel has filters, the patches are copied: the
last merging of PVT v2 b1 takes 2 ms instead of 14 for one image, forward.

JAX: XLA on CPU has a slow gradient for convolutions of non-overlapping patches, which are
computed as dense layers. Its grouped convolution is naive: 1083 ms for the depthwise 3x3,
against 66 ms as a sum of shifted products with a custom gradient. The gradient of a wide
kernel is slow too: 979 ms for a 3x3 over 256 channels of 256 maps of 14x14, where the
convolution takes 315; as one matrix product per tap, 441. On GPU and TPU the convolution is
the right form, so a program chooses when it is lowered.

TensorFlow: the depthwise kernel is fast (28 ms), but XLA replaces it (1037 ms): on a CPU, XLA
is the wrong choice for the whole model.

`depthwise_scales`: PyTorch and TensorFlow multiply zeros faster than they split and join the
map. JAX on CPU computes tap by tap, so zeros cost as much as other taps.
"""

import functools

import keras
from keras import ops

from keras_spm.backend import shifted_products
from keras_spm.backend.chunked import has_tensorflow_accelerator, torch_compiles
from keras_spm.backend.dense import add_bias, dense
from keras_spm.backend.exporting import is_exporting
from keras_spm.backend.resizing import pad
from keras_spm.types import Tensor

# Channels from which one product per tap is faster, with JAX on a CPU.
_WIDE = 128


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
    # The slices of maps of unknown size have an unknown size.
    as_dense = keras.config.backend() != "tensorflow" and not is_exporting()
    if as_dense and not padding and tuple(kernel.shape[:2]) == (strides, strides):
        return _dense_patches(inputs, kernel, bias)
    if keras.config.backend() == "torch":
        import torch

        if _torch_has_few_patches(inputs, kernel, strides, padding):
            return _torch_patches(inputs, kernel, strides, padding, bias)
        kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        return _torch_conv2d(inputs, kernel, strides, padding, bias)
    # With stride 1, "same" pads all sides of an odd kernel equally, without a padded copy.
    is_same = strides == 1 and tuple(kernel.shape[:2]) == (2 * padding + 1,) * 2
    has_own_gradient = keras.config.backend() == "jax" and not is_exporting()
    if has_own_gradient and is_same and kernel.shape[2] >= _WIDE:
        return add_bias(_jax_wide()(inputs, kernel), bias)
    if padding and not is_same:
        inputs = pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    mode = "same" if is_same else "valid"
    outputs = ops.conv(inputs, kernel, strides, mode, data_format="channels_last")
    return add_bias(outputs, bias)


def depthwise_conv2d(
    inputs: Tensor, kernel: Tensor, strides: int, padding: int, bias: Tensor | None = None
) -> Tensor:
    """Like `conv2d` for each channel with its own kernel, (height, width, channels, 1)."""
    if keras.config.backend() == "torch":
        kernel = kernel.permute(2, 3, 0, 1)
        return _torch_conv2d(inputs, kernel, strides, padding, bias, inputs.shape[-1])
    if keras.config.backend() == "jax":
        return add_bias(_jax_depthwise()(inputs, kernel, strides, padding), bias)
    return add_bias(_tensorflow(inputs, kernel, strides, padding), bias)


def depthwise_supports_xla() -> bool:
    """Returns whether XLA may compile models with depthwise convolutions."""
    return keras.config.backend() != "tensorflow" or has_tensorflow_accelerator()


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
    padded = []
    for kernel in kernels:
        border = (largest - kernel.shape[0]) // 2
        padded.append(pad(kernel, ((border, border), (border, border), (0, 0), (0, 0))))
    outputs = depthwise_conv2d(inputs, ops.concatenate(padded, axis=2), 1, largest // 2)
    return ops.reshape(outputs, (*ops.shape(inputs)[:-1], len(kernels), kernels[0].shape[2]))


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


def _torch_has_few_patches(inputs, kernel, strides, padding):
    """Whether the patches of all images are fewer values than the kernel, on CPU."""
    if inputs.device.type != "cpu" or is_exporting() or torch_compiles():
        return False
    batch, height, width, _ = inputs.shape
    rows, columns = (
        (size + 2 * padding - side) // strides + 1
        for size, side in zip((height, width), kernel.shape[:2], strict=True)
    )
    return batch * rows * columns <= kernel.shape[3]


def _torch_patches(inputs, kernel, strides, padding, bias):
    size, other_size, _, filters = kernel.shape
    padded = pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    patches = padded.unfold(1, size, strides).unfold(2, other_size, strides)
    patches = patches.permute(0, 1, 2, 4, 5, 3).flatten(3)
    return dense(patches, kernel.reshape(-1, filters), bias)


def _tensorflow(inputs, kernel, strides, padding):
    import tensorflow as tf

    # Explicit padding in this operation crashes the graph optimizer of TensorFlow 2.21 on
    # maps of unknown size. With strides of 1 "SAME" is equivalent.
    if strides == 1 and all(size == 2 * padding + 1 for size in kernel.shape[:2]):
        return tf.nn.depthwise_conv2d(inputs, kernel, [1, 1, 1, 1], "SAME")
    padded = tf.pad(inputs, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    return tf.nn.depthwise_conv2d(padded, kernel, [1, strides, strides, 1], "VALID")


def _torch_conv2d(inputs, kernel, strides, padding, bias, groups=1):
    import torch

    outputs = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2), kernel, bias, strides, padding, groups=groups
    )
    return outputs.permute(0, 2, 3, 1)


@functools.cache
def _jax_depthwise():
    """A JAX function that chooses its form when a program is lowered."""
    import jax

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    @functools.partial(jax.jit, static_argnums=(2, 3))
    def depthwise(inputs, kernel, strides, padding):
        return jax.lax.platform_dependent(
            inputs,
            kernel,
            cpu=lambda *arrays: shifted_products.forward(*arrays, strides, padding),
            default=lambda *arrays: _jax_depthwise_convolution(*arrays, strides, padding),
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
            convolution = functools.partial(
                _jax_depthwise_convolution, strides=strides, padding=padding
            )
            return jax.vjp(convolution, inputs, kernel)[1](cotangent)

        return jax.lax.platform_dependent(
            *residuals, cotangent, cpu=by_shifted_products, default=by_convolution
        )

    depthwise.defvjp(forward, backward)
    return depthwise


@functools.cache
def _jax_wide():
    """As `_jax_depthwise`, for a "same" convolution with stride 1 of many channels."""
    import jax

    @jax.custom_vjp
    @jax.jit
    def convolution(inputs, kernel):
        return _jax_convolution(inputs, kernel, 1, kernel.shape[0] // 2)

    def forward(inputs, kernel):
        return convolution(inputs, kernel), (inputs, kernel)

    @jax.jit
    def backward(residuals, cotangent):
        inputs, kernel = residuals
        plain = functools.partial(_jax_convolution, strides=1, padding=kernel.shape[0] // 2)
        _, input_gradient = jax.vjp(lambda inputs: plain(inputs, kernel), inputs)

        def by_convolution(inputs, kernel, cotangent):
            return jax.vjp(lambda kernel: plain(inputs, kernel), kernel)[1](cotangent)[0]

        kernel_gradient = jax.lax.platform_dependent(
            inputs,
            kernel,
            cotangent,
            cpu=shifted_products.dense_kernel_gradient,
            default=by_convolution,
        )
        return *input_gradient(cotangent), kernel_gradient

    convolution.defvjp(forward, backward)
    return convolution


def _jax_depthwise_convolution(inputs, kernel, strides, padding):
    return _jax_convolution(inputs, kernel.swapaxes(2, 3), strides, padding, inputs.shape[-1])


def _jax_convolution(inputs, kernel, strides, padding, groups=1):
    import jax

    return jax.lax.conv_general_dilated(
        inputs,
        kernel,
        (strides, strides),
        [(padding, padding), (padding, padding)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
