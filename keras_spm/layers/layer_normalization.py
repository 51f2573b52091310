"""Layer normalization with a formulation for each backend."""

from typing import Any

import keras
from keras import ops

from keras_spm import backend
from keras_spm.arguments import check_epsilon
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, in float32 under every dtype policy.

    Args:
        epsilon: float above 0, added to the variance.
        **kwargs: the initializers and regularizers of Keras's layer.
    """

    def __init__(self, epsilon: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(epsilon=check_epsilon("epsilon", epsilon), **kwargs)
        if self.axis not in (-1, [-1]) or self.rms_scaling or not (self.center and self.scale):
            raise ValueError(
                "`axis` must be -1, `center` and `scale` True, `rms_scaling` False. Received: "
                f"axis={self.axis}, center={self.center}, scale={self.scale}, "
                f"rms_scaling={self.rms_scaling}"
            )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        # Maps of one channel would be broadcast.
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Tensor) -> Tensor:
        outputs = backend.layer_normalization(inputs, self.gamma, self.beta, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)
