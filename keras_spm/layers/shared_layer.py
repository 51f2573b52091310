"""A layer that calls a layer of another model."""

from typing import Any

import keras

from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class SharedLayer(keras.layers.Wrapper):
    """Calls the wrapped layer, with its variables, as a layer of another functional model.

    A layer's `output` belongs to the graph in which the layer was called first. Wrapped, a
    layer has an `output` in the second graph too, so that `model.get_layer(name).output`
    can be combined with `model.output`.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        self.supports_jit = layer.supports_jit

    def call(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.layer.compute_output_shape(input_shape)
