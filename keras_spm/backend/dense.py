"""Dense and grouped linear maps of the channels, formulated per framework.

Maps are flattened to a matrix of positions. XLA on CPU otherwise copies the gradient of the
outputs to the transposed layout before it computes the kernel's: a training step from 64 to
512 channels on eight 56x56 maps takes 50 ms flat and 151 ms on maps (two cores, float32).

TensorFlow computes the kernel's gradient faster if it transposes the narrower of the two
maps (11 ms instead of 17). Its graph optimizer fuses an addition with the operation before
it only if it is a `bias_add`, and the gradient of a bias is fastest as a matrix product
(2.3 ms instead of 4.0).

The products of a grouped map are tiny, so that groups are computed in blocks, whose kernels are
zero between groups. JAX and TensorFlow compute few groups as one block, so that they need not
bring the blocks to the front. The grouped maps of PVT v2 b1 (8 images, one core, float32):

| groups | TensorFlow: one product | blocks | JAX: one product | blocks |
| --- | ---: | ---: | ---: | ---: |
| 16, forward | 5.5 ms | 6.2 ms | 12.5 ms | 7.7 ms |
| 16, and backward | 18.5 ms | 18.0 ms | 22.5 ms | 33.6 ms |
| 32, forward | 5.0 ms | 3.6 ms | 5.6 ms | 3.5 ms |
| 32, and backward | 14.2 ms | 7.5 ms | 12.9 ms | 7.2 ms |
| 80, forward | 6.9 ms | 2.5 ms | 6.3 ms | 1.7 ms |
| 80, and backward | 20.1 ms | 4.8 ms | 19.2 ms | 4.8 ms |
"""

import math

import keras
from keras import ops

from keras_spm.backend.exporting import is_exporting
from keras_spm.types import Tensor

_GROUPS_PER_BLOCK = 8


def dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Maps (…, channels) to (…, units); `kernel` is (channels, units) and `bias` (units,)."""
    if keras.config.backend() == "torch":
        import torch

        if is_exporting() and bias is not None:
            # A `Gemm` in ONNX, where a product of maps and its bias would be two operations.
            rows = inputs.reshape(-1, inputs.shape[-1])
            return torch.addmm(bias, rows, kernel).reshape(*inputs.shape[:-1], kernel.shape[1])
        return torch.nn.functional.linear(inputs, kernel.t(), bias)
    *leading, channels = ops.shape(inputs)
    has_own_gradient = keras.config.backend() == "tensorflow" and not is_exporting()
    product = _tensorflow_product if has_own_gradient else ops.matmul
    outputs = add_bias(product(ops.reshape(inputs, (-1, channels)), kernel), bias)
    return ops.reshape(outputs, (*leading, kernel.shape[1]))


def has_slow_int8_product(inputs: Tensor) -> bool:
    """Whether products of int8 matrices are slower than those of float32: PyTorch on CPU.

    It takes 5 to 8 times as long for the dense layers of PVT v2 b1 (one core).
    """
    return keras.config.backend() == "torch" and inputs.device.type == "cpu"


def int8_product(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Returns the product of matrices of int8, computed in float32.

    The result is exact for up to 1,040 inputs, whose sums are below 2**24.
    """
    return dense(ops.cast(inputs, "float32"), ops.cast(kernel, "float32"))


def _tensorflow_product(inputs, kernel):
    import tensorflow as tf

    @tf.custom_gradient
    def product(inputs, kernel):
        def gradients(upstream):
            input_gradient = tf.matmul(upstream, kernel, transpose_b=True)
            if kernel.shape[0] < kernel.shape[1]:
                return input_gradient, tf.matmul(inputs, upstream, transpose_a=True)
            transposed_gradient = tf.matmul(upstream, inputs, transpose_a=True)
            return input_gradient, tf.transpose(transposed_gradient)

        return tf.matmul(inputs, kernel), gradients

    return product(inputs, tf.convert_to_tensor(kernel))  # A variable would be captured.


def grouped_pointwise(inputs: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Maps each group of channels to its own outputs.

    Args:
        inputs: (batch, height, width, scales, groups).
        kernel: (scales, groups, width), from each channel of a group to each of its outputs.
        bias: (groups * width,), the channels of the result.
    """
    scales, groups, width = kernel.shape
    leading = ops.shape(inputs)[:-2]
    size = math.gcd(groups, _GROUPS_PER_BLOCK)
    is_one_product = groups <= 2 * _GROUPS_PER_BLOCK or size < _GROUPS_PER_BLOCK
    if is_exporting() or (is_one_product and keras.config.backend() != "torch"):
        rows = ops.reshape(inputs, (*leading, scales * groups))
        return dense(rows, _block_kernel(kernel, groups)[0], bias)
    rows = ops.reshape(inputs, (-1, scales, groups // size, size))
    rows = ops.transpose(rows, (2, 0, 1, 3))
    rows = ops.reshape(rows, (groups // size, -1, scales * size))
    outputs = ops.swapaxes(ops.matmul(rows, _block_kernel(kernel, size)), 0, 1)
    return add_bias(ops.reshape(outputs, (*leading, groups * width)), bias)


def _block_kernel(kernel, size):
    """Returns kernels of blocks of groups, (blocks, scales * size, size * width)."""
    scales, groups, width = kernel.shape
    same_group = ops.expand_dims(ops.eye(size, dtype=kernel.dtype), -1)
    blocks = ops.reshape(kernel, (scales, groups // size, size, 1, width)) * same_group
    blocks = ops.transpose(blocks, (1, 0, 2, 3, 4))
    return ops.reshape(blocks, (groups // size, scales * size, size * width))


def add_bias(maps: Tensor, bias: Tensor | None) -> Tensor:
    """Adds a bias, (channels,), to every position of (…, channels); `None` adds nothing."""
    if bias is None:
        return maps
    if keras.config.backend() != "tensorflow":
        return maps + bias
    import tensorflow as tf

    if is_exporting():
        return tf.nn.bias_add(maps, tf.convert_to_tensor(bias))

    @tf.custom_gradient
    def biased(maps, bias):
        def gradients(upstream):
            return upstream, sum_of_positions(upstream)

        return tf.nn.bias_add(maps, bias), gradients

    return biased(maps, tf.convert_to_tensor(bias))  # A variable would be captured.


def sum_of_positions(maps: Tensor) -> Tensor:
    """Returns (channels,), the sum over all positions of (…, channels), computed in float32."""
    rows = ops.reshape(maps, (-1, maps.shape[-1]))
    rows = ops.cast(rows, keras.backend.result_type(rows.dtype, "float32"))
    return ops.cast(ops.matmul(ops.ones_like(rows[:, 0]), rows), maps.dtype)
