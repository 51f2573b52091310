"""Convolutions with explicit padding and a formulation for each backend."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_each, check_integer, check_odd
from keras_spm.layers.initializers import conv_initializer
from keras_spm.layers.int8_kernel import Int8Kernel
from keras_spm.types import Shape, Tensor

# Called as a function: PyTorch's compiler does not trace a property of `super()`.
_keras_kernel = keras.layers.Conv2D.kernel.fget


class _ExplicitPadding:
    """Zeros on each side of the map, before the padding of Keras's layer.

    PyTorch pads all sides equally. Keras's "same" depends on the strides: with strides
    above 1 it pads the bottom and right more.
    """

    def __init__(
        self,
        *args: Any,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int],
        padding: int | str,
        **kwargs: Any,
    ) -> None:
        kwargs["kernel_size"] = _check_pair("kernel_size", kernel_size)
        kwargs["strides"] = _check_pair("strides", strides)
        is_explicit = not isinstance(padding, str)
        explicit_padding = check_integer("padding", padding, minimum=0) if is_explicit else 0
        super().__init__(*args, padding="valid" if is_explicit else padding, **kwargs)
        self.explicit_padding = explicit_padding

    def _widths(self) -> list[tuple[int, int]]:
        sides = [(self.explicit_padding, self.explicit_padding)] * 2
        if self.data_format == "channels_last":
            return [(0, 0), *sides, (0, 0)]
        return [(0, 0), (0, 0), *sides]

    def _has_fast_form(self) -> bool:
        return (
            self.padding == "valid"
            and self.data_format == "channels_last"
            and self.dilation_rate == (1, 1)
            and self.strides[0] == self.strides[1]
            and getattr(self, "groups", 1) == 1  # Of `Conv2D`.
            and getattr(self, "depth_multiplier", 1) == 1  # Of `DepthwiseConv2D`.
        )

    def call(self, inputs: Tensor) -> Tensor:
        if not self._has_fast_form():
            if self.explicit_padding:
                inputs = backend.pad(inputs, self._widths())
            return super().call(inputs)
        kernel = ops.convert_to_tensor(self.kernel)
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        outputs = self._convolve(inputs, kernel, self.strides[0], self.explicit_padding, bias)
        return self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        padded_shape = tuple(
            None if size is None else size + sum(width)
            for size, width in zip(input_shape, self._widths(), strict=True)
        )
        return super().compute_output_shape(padded_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "padding": self.explicit_padding or self.padding}


@keras.saving.register_keras_serializable("keras_spm")
class Conv2D(Int8Kernel, _ExplicitPadding, keras.layers.Conv2D):
    """`keras.layers.Conv2D`, computed by the fastest formulation of each backend.

    See `keras_spm.backend.conv2d`. Other data formats, dilations, groups, unequal strides
    and `padding="same"` are computed by Keras. `enable_lora` works as in Keras.

    `quantize("int8")`, which Keras's layer does not have, stores the kernel in int8.

    Args:
        filters: int, channels of the output.
        kernel_size: int, or two ints.
        strides: int, or two ints.
        padding: int, zeros on each of the four sides, or Keras's `"valid"` or `"same"`.
        kernel_initializer: as in Keras; by default normal, by fan-out.
        data_format, **kwargs: as in Keras.

    Input: (batch, height, width, channels). Output: (batch, out_height, out_width,
    filters) with `out = (size + 2 * padding - kernel_size) // strides + 1`.
    """

    _convolve = staticmethod(backend.conv2d)

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | str = "valid",
        data_format: str = "channels_last",
        kernel_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        kwargs["kernel_initializer"] = kernel_initializer or conv_initializer()
        kwargs.update(kernel_size=kernel_size, strides=strides, padding=padding)
        filters = check_integer("filters", filters)
        super().__init__(filters=filters, data_format=data_format, **kwargs)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.build_int8()

    @property
    def kernel(self) -> Tensor:
        """The float kernel that the layer computes with."""
        return self.float_kernel() if self._is_quantized else _keras_kernel(self)

    def save_own_variables(self, store: Any) -> None:
        if self._is_quantized:
            keras.layers.Layer.save_own_variables(self, store)
        else:
            super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        if self._is_quantized:
            keras.layers.Layer.load_own_variables(self, store)
        else:
            super().load_own_variables(store)


@keras.saving.register_keras_serializable("keras_spm")
class DepthwiseConv2D(_ExplicitPadding, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D`, computed by the fastest formulation of each backend.

    See `keras_spm.backend.depthwise_conv2d`. Other data formats, dilations, depth
    multipliers, unequal strides and `padding="same"` are computed by Keras.

    Args:
        kernel_size: int, or two ints.
        strides: int, or two ints.
        padding: int, zeros on each of the four sides, or Keras's `"valid"` or `"same"`. By
            default `kernel_size // 2`; `kernel_size` must be odd then.
        depthwise_initializer: as in Keras; by default normal, by fan-out.
        data_format, **kwargs: as in Keras.

    Input: (batch, height, width, channels). Output, by default: (batch,
    ceil(height / strides), ceil(width / strides), channels).
    """

    _convolve = staticmethod(backend.depthwise_conv2d)

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | str | None = None,
        data_format: str = "channels_last",
        depthwise_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        if padding is None:
            padding = check_odd("kernel_size", kernel_size) // 2
        kwargs["depthwise_initializer"] = depthwise_initializer or conv_initializer()
        kwargs.update(kernel_size=kernel_size, strides=strides, padding=padding)
        super().__init__(data_format=data_format, **kwargs)
        # Keras's jit_compile="auto" asks every layer.
        self.supports_jit = backend.depthwise_supports_xla()


def _check_pair(name, value):
    """Checks the size of both sides, or a pair of sizes."""
    if isinstance(value, (tuple, list)):
        return check_each(name, value, check_integer, 2)
    return check_integer(name, value)
