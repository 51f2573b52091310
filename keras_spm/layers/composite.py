"""Layers that contain other layers."""

from typing import Any

import keras

from keras_spm.arguments import argument_error, check_each
from keras_spm.layers.adaptation import AdaptedSublayers
from keras_spm.types import Shape, Tensor


class CompositeLayer(AdaptedSublayers, keras.layers.Layer):
    """Base class of layers that contain other layers; by default they keep the map's shape.

    A child is built by its parent, which gives its variables their paths. Children that
    are constructor arguments are therefore serialized without their build shapes.
    """

    # Names of the constructor arguments that are plain values, and of those that are layers,
    # lists of layers, or None.
    config_arguments: tuple[str, ...] = ()
    child_arguments: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        """Fixes the channels of the inputs; a subclass calls it before it builds its children."""
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        config = super().get_config()
        for name in self.child_arguments:
            child = keras.saving.serialize_keras_object(getattr(self, name))
            config[name] = _without_build_shapes(child)
        return config | {name: getattr(self, name) for name in self.config_arguments}

    @classmethod
    def from_config(cls, config: dict) -> "CompositeLayer":
        children = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in cls.child_arguments
        }
        return super().from_config({**config, **children})


@keras.saving.register_keras_serializable("keras_spm")
class SequentialLayer(CompositeLayer):
    """Applies a list of layers one after another.

    Unlike in `keras.Sequential`, the layers' variables have its path as prefix.
    """

    child_arguments = ("layers",)

    def __init__(self, layers: list[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = list(check_each("layers", layers, check_layer))

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for layer in self.layers:
            build_once(layer, input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        for layer in self.layers:  # Keras passes `training` to the layers that take it.
            inputs = layer(inputs)
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape


def build_once(layer: keras.layers.Layer, input_shape: Shape) -> None:
    """Builds a layer unless it is built: Keras refuses to build a layer twice."""
    if not layer.built:
        layer.build(input_shape)


def check_layer(name: str, value: Any) -> keras.layers.Layer:
    """Returns `value`; raises ValueError if it is not a layer, but a class, for example."""
    if not isinstance(value, keras.layers.Layer):
        raise argument_error(name, "a Keras layer", value)
    return value


def check_num_heads(num_heads: int, channels: int) -> None:
    """Raises ValueError if `num_heads` does not divide the channels."""
    if channels % num_heads:
        raise ValueError(
            "`num_heads` must divide the channels. "
            f"Received: num_heads={num_heads}, channels={channels}"
        )


def _without_build_shapes(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _without_build_shapes(value)
            for key, value in config.items()
            if key not in ("build_config", "build_input_shape")
        }
    if isinstance(config, (list, tuple)):
        return [_without_build_shapes(value) for value in config]
    return config
