"""The stages of a hierarchical vision transformer."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_spm.arguments import check_each
from keras_spm.layers.composite import CompositeLayer, build_once, check_layer
from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.macs import macs
from keras_spm.types import Shape, Tensor


@keras.saving.register_keras_serializable("keras_spm")
class Stage(CompositeLayer):
    """Patch merging, position embedding, transformer blocks and normalization.

    Args:
        blocks: layers that keep the map's shape.
        merging: optional layer that halves the map and widens its channels.
        norm: optional layer applied at the end.
        position_embedding: optional layer that keeps the map's shape, before the blocks.

    Input: (batch, height, width, channels). Output: the output shape of `merging`, or
    the input shape without it.
    """

    child_arguments = ("blocks", "merging", "norm", "position_embedding")

    def __init__(
        self,
        blocks: Iterable[keras.layers.Layer],
        merging: keras.layers.Layer | None = None,
        norm: keras.layers.Layer | None = None,
        position_embedding: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        optional = {"merging": merging, "norm": norm, "position_embedding": position_embedding}
        for name, layer in optional.items():
            if layer is not None:
                check_layer(name, layer)
        self.blocks = list(check_each("blocks", blocks, check_layer))
        self.merging = merging
        self.norm = norm
        self.position_embedding = position_embedding

    @property
    def before_blocks(self) -> list[keras.layers.Layer | keras.Variable]:
        """Layers and own variables before the first block."""
        return self._embedding_layers

    @property
    def after_blocks(self) -> list[keras.layers.Layer]:
        """Layers after the last block."""
        return [] if self.norm is None else [self.norm]

    @property
    def _embedding_layers(self):
        layers = (self.merging, self.position_embedding)
        return [layer for layer in layers if layer is not None]

    @property
    def _token_layers(self):
        return [*self.blocks, *self.after_blocks]

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for layer in self._embedding_layers:
            build_once(layer, input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        for layer in self._token_layers:
            build_once(layer, input_shape)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        # Keras passes `training` to the layers that take it.
        return self.after_merging(inputs if self.merging is None else self.merging(inputs))

    def after_merging(self, inputs: Tensor) -> Tensor:
        """Returns the outputs of the stage for the map that its merging gives."""
        if self.position_embedding is not None:
            inputs = self.position_embedding(inputs)
        for layer in self._token_layers:
            inputs = layer(inputs)
        return inputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.shape_after_merging(self._merged_shape(input_shape))

    def shape_after_merging(self, maps_shape: Shape) -> Shape:
        """Returns the shape of what `after_merging` returns."""
        return maps_shape

    def _merged_shape(self, input_shape: Shape) -> Shape:
        if self.merging is None:
            return input_shape
        return self.merging.compute_output_shape(input_shape)

    def macs(self, input_shape: Shape) -> int:
        total = 0 if self.merging is None else macs(self.merging, input_shape)
        tokens_shape = self._tokens_shape(self._merged_shape(input_shape))
        return total + sum(macs(block, tokens_shape) for block in self.blocks)

    def _tokens_shape(self, maps_shape: Shape) -> Shape:
        return maps_shape


@keras.saving.register_keras_serializable("keras_spm")
class ClassTokenStage(Stage):
    """A stage that prepends a learned class token to the positions of the map.

    The arguments are those of `Stage`. The blocks get all tokens as a map of width one, so
    they must be independent of spatial layout: no spatial reduction, no convolution.

    Input: (batch, height, width, channels). Output: the map, as of `Stage`, and the token,
    (batch, channels).

    Reference:
        Wang et al., Pyramid Vision Transformer, arXiv 2102.12122, section 3.4.
    """

    @property
    def before_blocks(self) -> list[keras.layers.Layer | keras.Variable]:
        return [*super().before_blocks, self.class_token, self.class_position]

    def build(self, input_shape: Shape) -> None:
        channels = self._merged_shape(input_shape)[-1]
        for name in ("class_token", "class_position"):
            weight = self.add_weight(name=name, shape=(channels,), initializer=dense_initializer())
            setattr(self, name, weight)
        super().build(input_shape)

    def after_merging(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.position_embedding is not None:
            inputs = self.position_embedding(inputs)
        batch, height, width, channels = ops.shape(inputs)
        class_token = ops.convert_to_tensor(self.class_token) + self.class_position
        class_tokens = ops.broadcast_to(class_token, (batch, 1, 1, channels))
        positions = ops.reshape(inputs, (batch, height * width, 1, channels))
        tokens = ops.concatenate([class_tokens, positions], axis=1)
        for layer in self._token_layers:
            tokens = layer(tokens)
        return ops.reshape(tokens[:, 1:], (batch, height, width, channels)), tokens[:, 0, 0]

    def _tokens_shape(self, maps_shape: Shape) -> Shape:
        batch, height, width, channels = maps_shape
        return (batch, 1 + height * width, 1, channels)

    def shape_after_merging(self, maps_shape: Shape) -> tuple[Shape, Shape]:
        return maps_shape, (maps_shape[0], maps_shape[-1])
