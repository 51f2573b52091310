"""Dense and grouped linear maps of the channels, formulated per framework.

Maps are flattened to a matrix of positions. XLA on CPU otherwise copies the gradient of the
outputs to the transposed layout before it computes the kernel's: a training step from 64 to
512 channels on eight 56x56 maps takes 50 ms flat and 151 ms on maps (two cores, float32).

TensorFlow computes the kernel's gradient faster if it transposes the narrower of the two
maps (11 ms instead of 17). Its graph optimizer fuses an addition with the operation before
it only if it is a `bias_add`, and the gradient of a bias is fastest as a matrix product
(2.3 ms instead of 4.0).

The products of a grouped map are tiny. JAX and TensorFlow spend more time on bringing the
groups to the front than on one product with a kernel that is zero outside the groups: the
first aggregation of PVT v2 b1 takes 79 ms in groups and 36 ms as one product under JAX.
PyTorch multiplies blocks of groups: 6 ms instead of 8, forward, and 23 instead of 34 with the
gradient (one core).
"""

import math

import keras
from keras import ops

from keras_spm.backend.exporting import is_exporting
from keras_spm.types import Tensor

_GROUPS_PER_BLOCK = 4  # Of grouped maps on PyTorch.


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
    if keras.config.backend() == "torch" and not is_exporting():
        return _torch_grouped(inputs, kernel).add_(bias)
    same_group = ops.expand_dims(ops.eye(groups, dtype=kernel.dtype), -1)
    kernel = ops.reshape(ops.expand_dims(kernel, 2) * same_group, (scales * groups, groups * width))
    return dense(ops.reshape(inputs, (*leading, scales * groups)), kernel, bias)


def _torch_grouped(inputs, kernel):
    """One batched product of blocks of groups."""
    import torch

    scales, groups, width = kernel.shape
    size = math.gcd(groups, _GROUPS_PER_BLOCK)
    blocks = groups // size
    same_group = torch.eye(size, dtype=kernel.dtype, device=kernel.device)[..., None]
    kernel = kernel.reshape(scales, blocks, size, 1, width) * same_group
    kernel = kernel.transpose(0, 1).reshape(blocks, scales * size, size * width)
    rows = inputs.reshape(-1, scales, blocks, size).permute(2, 0, 1, 3).flatten(2)
    outputs = torch.bmm(rows, kernel).transpose(0, 1)
    return outputs.reshape(*inputs.shape[:-2], groups * width)


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
