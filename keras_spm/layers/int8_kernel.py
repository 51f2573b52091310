"""Kernels in int8, of layers that Keras does not quantize."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.types import Tensor

MODES = ("int8", "int4")


class Int8Kernel:
    """A mixin for layers whose kernel `quantize("int8")` stores in int8.

    Each output channel, the last axis, has a scale. The layer computes with a float kernel
    again, so this saves memory, not time. `build` must end with `build_int8`.
    """

    kernel_attribute = "_kernel"  # The name of the kernel's variable in the layer.
    _is_quantized = False  # Keras's name.

    def build_int8(self) -> None:
        """Replaces the kernel if the layer's dtype policy is quantized."""
        if self.quantization_mode is not None:
            self.allocate_int8()

    def float_kernel(self) -> Tensor:
        """Returns the kernel that the layer computes with."""
        kernel = getattr(self, self.kernel_attribute)
        if not self._is_quantized:
            return ops.convert_to_tensor(kernel)
        return ops.cast(kernel, self.compute_dtype) / self.kernel_scale

    def assign_kernel(self, kernel: np.ndarray) -> None:
        """Assigns a float kernel, which is rounded if the layer is quantized."""
        variable = getattr(self, self.kernel_attribute)
        if not self._is_quantized:
            variable.assign(kernel)
            return
        axes = tuple(range(len(variable.shape) - 1))
        values, scale = keras.quantizers.AbsMaxQuantizer(axis=axes)(kernel, to_numpy=True)
        variable.assign(values)
        self.kernel_scale.assign(ops.reshape(scale, self.kernel_scale.shape))

    def kernel_variables(self) -> list[keras.Variable]:
        """Returns the kernel, and its scales if the layer is quantized."""
        scales = [self.kernel_scale] if self._is_quantized else []
        return [getattr(self, self.kernel_attribute), *scales]

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Quantizes the kernel in place.

        Args:
            mode: `"int8"`, or `"int4"` for a kernel in int8 in a model in int4.
            type_check, config: of Keras; not used.

        Raises:
            NotImplementedError: for another mode, as Keras's layers do.
            ValueError: for a layer with LoRA.
        """
        if mode not in MODES:
            raise NotImplementedError(f"{type(self).__name__} has no quantization to {mode!r}.")
        if getattr(self, "lora_enabled", False):
            raise ValueError(f"{self.path} has LoRA, so it cannot be quantized.")
        kernel = ops.convert_to_numpy(getattr(self, self.kernel_attribute)).astype("float32")
        self.allocate_int8()
        self.assign_kernel(kernel)

    def allocate_int8(self) -> None:
        """Replaces the kernel by one of zeros in int8, and adds its scales."""
        kernel = getattr(self, self.kernel_attribute)
        self._untrack_variable(kernel)
        self._tracker.unlock()
        options = {"trainable": False, "name": kernel.name, "shape": tuple(kernel.shape)}
        kernel = self.add_weight(initializer="zeros", dtype="int8", **options)
        setattr(self, self.kernel_attribute, kernel)
        options |= {"name": f"{kernel.name}_scale", "shape": kernel.shape[-1:]}
        self.kernel_scale = self.add_weight(initializer="ones", **options)
        self._tracker.lock()
        self._is_quantized = True
        if self.quantization_mode is None:
            self.dtype_policy = f"int8_from_{self.dtype_policy.name}"

    def _int8_call(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.call(*args, **kwargs)


def float_policy(policy: keras.DTypePolicy) -> keras.DTypePolicy:
    """Returns the policy of a layer before it was quantized."""
    if policy.quantization_mode is None:
        return policy
    return keras.dtype_policies.get(policy.name.partition("_from_")[2])
