"""Dense layer with a formulation for each backend."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer
from keras_spm.layers.initializers import HeUniform, dense_initializer
from keras_spm.types import Shape, Tensor

_FLOAT = ("kernel", "bias")
_LORA = ("lora_kernel_a", "lora_kernel_b")


@keras.saving.register_keras_serializable("keras_spm")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`, computed by the fastest formulation of each backend.

    `quantize` and `enable_lora` work as in Keras, but LoRA is saved as it is, not merged into the
    kernel, so that it can be trained further.

    Args:
        units: int, channels of the output.
        kernel_initializer: as in Keras; by default normal with standard deviation 0.02.
        activation, use_bias, **kwargs: as in Keras.

    Input: (…, channels). Output: (…, units).
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        if kernel_initializer is None:
            kernel_initializer = dense_initializer()
        units = check_integer("units", units)
        super().__init__(units, activation, use_bias, kernel_initializer, **kwargs)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.quantization_mode == "float8":
            # Keras creates these first here, but last in `quantize`.
            self._trainable_variables.sort(key=lambda variable: variable.name not in _FLOAT)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        outputs = backend.dense(inputs, ops.convert_to_tensor(self.kernel), bias)
        return self.activation(outputs)

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        if self.lora_enabled:
            raise ValueError(f"{self.path} has LoRA: merge it into the kernel before `quantize`.")
        # Keras's type check accepts its own class only: a subclass may change `call`.
        type_check = type_check and type(self) is not Dense
        super().quantize(mode, type_check=type_check, config=config)

    def _int8_call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not backend.has_slow_int8_product(inputs):
            return super()._int8_call(inputs, training)

        @ops.custom_gradient
        def product(inputs, kernel, scale):
            def gradients(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                return ops.matmul(upstream, ops.transpose(kernel / scale)), None, None

            if self.inputs_quantizer is None:
                return backend.dense(inputs, ops.cast(kernel, inputs.dtype)) / scale, gradients
            rows, row_scale = self.inputs_quantizer(inputs, axis=-1)
            outputs = backend.int8_product(rows, kernel) / (scale * row_scale)
            return ops.cast(outputs, inputs.dtype), gradients

        kernel, scale = (ops.convert_to_tensor(each) for each in (self._kernel, self.kernel_scale))
        outputs = product(inputs, kernel, scale)
        if self.lora_enabled:
            adapted = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            adapted = adapted * (self.lora_alpha / self.lora_rank)
            outputs = ops.add(outputs, ops.cast(adapted, outputs.dtype))
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)

    # === LoRA ===

    def enable_lora(self, rank: int, lora_alpha: float | None = None, **kwargs: Any) -> None:
        """Adds low-rank matrices; see Keras's layer. `lora_alpha` is that of the constructor."""
        kwargs.setdefault("a_initializer", HeUniform())
        # Keras's `build` passes the constructor's rank alone.
        super().enable_lora(rank, self.lora_alpha if lora_alpha is None else lora_alpha, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        if not self.lora_enabled:
            super().save_own_variables(store)
            return
        # Keras saves the merged kernel. LoRA would start again from zero after loading, where
        # both of its gradients are zero.
        self.lora_enabled = False
        try:
            super().save_own_variables(store)
        finally:
            self.lora_enabled = True
        for name in _LORA:
            store[name] = getattr(self, name)

    def load_own_variables(self, store: Any) -> None:
        if not self.lora_enabled:
            super().load_own_variables(store)
            return
        first = ops.convert_to_numpy(self.lora_kernel_a)
        super().load_own_variables(store)  # Sets both to zero.
        if _LORA[0] in store:
            for name in _LORA:
                getattr(self, name).assign(store[name])
        else:  # Of the layer without LoRA.
            self.lora_kernel_a.assign(first)
