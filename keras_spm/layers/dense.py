"""Dense layer with a formulation for each backend."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_integer
from keras_spm.layers.initializers import dense_initializer
from keras_spm.types import Tensor


@keras.saving.register_keras_serializable("keras_spm")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`, computed by the fastest formulation of each backend.

    `quantize` and `enable_lora` work as in Keras.

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

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
        outputs = backend.dense(inputs, ops.convert_to_tensor(self.kernel), bias)
        return self.activation(outputs)

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        # Keras's type check accepts its own class only: a subclass may change `call`.
        type_check = type_check and type(self) is not Dense
        super().quantize(mode, type_check=type_check, config=config)
