"""The base class of all backbones: a functional model of a stem and stages."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import keras

from keras_spm.arguments import argument_error, check_bool, check_each, check_integer
from keras_spm.backbones.adaptation import AdaptableModel, freeze_for_lora
from keras_spm.backbones.connection import Connection
from keras_spm.backend import SafeTrainer
from keras_spm.export import ExportMixin
from keras_spm.layers.macs import macs
from keras_spm.registry import BACKBONES, PresetMixin, lookup
from keras_spm.types import Shape

_STEM_STRIDE = 4
_ANY_SIZE = {"channels_last": (None, None, 3), "channels_first": (3, None, None)}
_CHANNEL_AXES = {"channels_last": 2, "channels_first": 0}  # In the shape of an image.


class PyramidBackbone(AdaptableModel, PresetMixin, ExportMixin, SafeTrainer, keras.Model):
    """A hierarchical vision transformer: a stem, then stages that halve the feature map.

    A family's class creates the stem and the stages and passes them to this constructor,
    which connects them and gives all families one interface:

    - `pyramid_outputs`: `{"P2": …, "P5": …}`, feature maps, where Pn has stride 2**n;
    - `pyramid_level_inputs`: the name of the layer that computes each level;
    - `output`: the last feature map, after the final normalization if there is one;
    - `pooled_output`: (batch, channels), the input of the family's own classifier.

    Images are (batch, height, width, channels), or (batch, channels, height, width) with
    `data_format="channels_first"`. Feature maps have the same format; all layers inside
    use channels_last. A subclass is registered under its class name, so that presets,
    converters, recipes, commands and saved models find it.

    Args:
        stem: layer from images to a map of stride 4.
        stages: list of layers; the first keeps the stride, each of the others doubles it.
            The last one may return a class token, (batch, channels), beside its map.
        config: dict of the family's own constructor arguments. Each becomes an attribute
            and is part of `get_config`.
        final_norm: optional layer, applied to the last map and to the class token.
        pyramid_norms: optional {level: layer}, each applied to that level of `pyramid_outputs`
            alone, not to the input of the next stage. That of the last level, which has no
            `final_norm` then, is also part of `output` and `pooled_output`.
        image_shape: shape of an image; `None` for a height or width of any size. Any size
            and 3 channels by default.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras's default.
        dtype: dtype policy of the layers.
        frozen_stages, frozen_batch_normalization: see `freeze`.
        gradient_checkpointing: bool, whether training recomputes the activations of blocks
            in the backward pass to save memory, see `TransformerBlock`.
        name: str.

    Raises:
        ValueError: for an image that is too small or an unknown data format.
    """

    # {short name: constructor arguments}, and the prefix of their long names.
    presets: ClassVar[dict[str, dict]] = {}
    preset_prefix: ClassVar[str] = ""
    # The family's default value of `merging`, if it has that argument.
    default_merging: ClassVar[str] = "default"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        BACKBONES.register(cls.__name__, cls)
        keras.saving.register_keras_serializable("keras_spm")(cls)

    def __init__(
        self,
        stem: keras.layers.Layer,
        stages: list[keras.layers.Layer],
        config: dict[str, Any],
        final_norm: keras.layers.Layer | None = None,
        pyramid_norms: dict[str, keras.layers.Layer] | None = None,
        image_shape: Shape | None = None,
        data_format: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        frozen_stages: int = 0,
        frozen_batch_normalization: bool = False,
        gradient_checkpointing: bool = False,
        name: str | None = None,
    ) -> None:
        # === Layers ===
        data_format = _checked_data_format(data_format)
        image_shape = _checked_image_shape(image_shape, data_format)
        _check_smallest(spatial_sizes(image_shape, data_format), len(stages))
        check_bool("gradient_checkpointing", gradient_checkpointing)
        check_integer("frozen_stages", frozen_stages, 0, len(stages))
        check_bool("frozen_batch_normalization", frozen_batch_normalization)
        for stage in stages:
            for block in _blocks(stage):
                block.gradient_checkpointing = gradient_checkpointing

        # === Functional Model ===
        images = keras.Input(image_shape, name="images")
        pyramid_norms = dict(pyramid_norms or {})
        connect = Connection(stem, stages, final_norm, pyramid_norms, data_format, dtype)
        pyramid_outputs, output, pooled_output = connect(images)
        super().__init__(inputs=images, outputs=output, name=name)

        # === Config ===
        self.dtype_policy = keras.dtype_policies.get(dtype)
        self.image_shape = image_shape
        self.data_format = data_format
        self.gradient_checkpointing = gradient_checkpointing
        self._connect = connect
        self._pyramid_outputs = pyramid_outputs
        self.pyramid_level_inputs = connect.level_layers
        self.pooled_output = pooled_output
        self._final_norm = final_norm
        self._pyramid_norms = pyramid_norms
        self._stage_names = tuple(stage.name for stage in stages)
        self._family_arguments = tuple(config)
        for argument, value in config.items():
            setattr(self, argument, value)
        self.freeze(frozen_stages, frozen_batch_normalization)

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """{"P2": …, "P5": …}, the symbolic feature maps."""
        return dict(self._pyramid_outputs)

    @property
    def spatial_sizes(self) -> tuple[int | None, int | None]:
        """(height, width) of the images, `None` where any size is allowed."""
        return spatial_sizes(self.image_shape, self.data_format)

    @functools.cached_property
    def smallest_size(self) -> int:
        """Smallest height and width of images that every layer can compute."""
        smallest = 1
        for number, stage in enumerate(self.stages):
            stride = _STEM_STRIDE * 2**number
            for layer in stage._flatten_layers():
                # Of the map, whose sides are those of the image divided by the stride, rounded up.
                side = getattr(layer, "smallest_map", 1)
                smallest = max(smallest, (side - 1) * stride + 1)
        return smallest

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers of the graph, and norms of pyramid levels, which `output` does not need."""
        layers, norms = super().layers, getattr(self, "_pyramid_norms", {}).values()
        return [*layers, *(norm for norm in norms if norm not in layers)]

    @property
    def stem(self) -> keras.layers.Layer:
        """The layer from images to a map of stride 4."""
        return self.get_layer("stem")

    @property
    def stages(self) -> list[keras.layers.Layer]:
        """The layers that compute the levels of the pyramid, in their order."""
        return [self.get_layer(name) for name in self._stage_names]

    @property
    def layer_groups(self) -> list[list[keras.layers.Layer | keras.Variable]]:
        """Layers and variables by depth: the stem, then one group per block.

        Layers before the first block of a stage belong to the group of the block before
        them, layers after the last block to its group. The final norm and those of pyramid
        levels are in no group: they are trained like a head.
        """
        groups = [[self.stem]]
        for stage in self.stages:
            groups[-1] += getattr(stage, "before_blocks", [])
            groups += [[block] for block in _blocks(stage)]
            groups[-1] += getattr(stage, "after_blocks", [])
        return groups

    def connect(
        self, images: keras.KerasTensor
    ) -> tuple[dict[str, keras.KerasTensor], keras.KerasTensor]:
        """Returns (pyramid_outputs, pooled_output) of symbolic images in another model.

        Unlike calling the backbone, this makes the stem and every stage a layer of that
        functional model. The variables are shared with the backbone.
        """
        pyramid_outputs, _, pooled_output = self._connect(images, shared=True)
        return pyramid_outputs, pooled_output

    def freeze(self, up_to_stage: int | None = None, batch_normalization: bool = False) -> None:
        """Freezes the stem and the first stages; later stages stay trainable.

        The final normalization, if there is one, is frozen with the last stage, and the
        normalization of a pyramid level with its stage. Frozen batch normalization layers run in
        inference mode. With LoRA, only LoRA is trained in later stages. A compiled model must be
        compiled again to take the change into account.

        Args:
            up_to_stage: int, the number of frozen stages; `None` for all of them. 0 freezes
                nothing, not even the stem.
            batch_normalization: bool, whether the batch normalization layers of all stages
                are frozen, for batches too small for statistics.

        Raises:
            ValueError: if there are fewer stages.
        """
        stages = self.stages
        up_to_stage = len(stages) if up_to_stage is None else up_to_stage
        up_to_stage = check_integer("up_to_stage", up_to_stage, 0, len(stages))
        batch_normalization = check_bool("batch_normalization", batch_normalization)
        self.frozen_stages = up_to_stage
        self.stem.trainable = up_to_stage == 0
        for number, stage in enumerate(stages, start=1):
            stage.trainable = number > up_to_stage
            for layer in stage._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    # Also to True: on TensorFlow, a trained stage does not pass its setting on.
                    layer.trainable = stage.trainable and not batch_normalization
        if self._final_norm is not None:
            self._final_norm.trainable = up_to_stage < len(stages)
        for number, level in enumerate(self._pyramid_outputs, start=1):
            if level in self._pyramid_norms:
                self._pyramid_norms[level].trainable = number > up_to_stage
        self.frozen_batch_normalization = batch_normalization
        freeze_for_lora(self)

    def _refreeze(self) -> None:
        arguments = self.frozen_stages, self.frozen_batch_normalization
        self.freeze()  # On TensorFlow, a trained stage does not pass its setting on.
        self.freeze(*arguments)

    def macs(self, input_shape: Shape) -> int:
        """Returns the multiply-accumulate operations of one image.

        Args:
            input_shape: (batch, height, width, channels); the batch is ignored.

        Raises:
            ValueError: if a size is unknown, or the images have other channels.
        """
        channels = self.image_shape[_CHANNEL_AXES[self.data_format]]
        if len(input_shape) != 4 or input_shape[-1] != channels:
            allowed = f"(batch, height, width, {channels})"
            raise argument_error("input_shape", allowed, input_shape)
        total = 0
        for layer in (self.stem, *self.stages):
            total += macs(layer, input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        return total

    def pyramid_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """Returns {"P2": (batch, height / 4, width / 4, channels), …}, always channels_last."""
        shapes, shape = {}, self.stem.compute_output_shape(input_shape)
        for level, stage in zip(self._pyramid_outputs, self.stages, strict=True):
            shape = stage.compute_output_shape(shape)
            if isinstance(shape[0], tuple):
                shape, _ = shape  # With the shape of the class token.
            shapes[level] = shape
        return shapes

    def serving_function(self, raw_outputs: bool = False) -> Callable:
        outputs = {**self.pyramid_outputs, "pooled_output": self.pooled_output}
        return keras.Model(self.input, outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in self._family_arguments},
            "image_shape": self.image_shape,
            "data_format": self.data_format,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "frozen_stages": self.frozen_stages,
            "frozen_batch_normalization": self.frozen_batch_normalization,
            "gradient_checkpointing": self.gradient_checkpointing,
            "name": self.name,
            **self._adaptation_config(),
        }


def spatial_sizes(
    image_shape: Shape | None, data_format: str | None
) -> tuple[int | None, int | None]:
    """Returns (height, width) of a constructor's `image_shape`; `None` for any size."""
    data_format = _checked_data_format(data_format)
    sizes = list(_checked_image_shape(image_shape, data_format))
    del sizes[_CHANNEL_AXES[data_format]]
    return tuple(sizes)


def _blocks(stage):
    """The blocks of a stage; a stage without blocks is a block itself."""
    return getattr(stage, "blocks", [stage])


def _checked_data_format(data_format):
    data_format = data_format or keras.config.image_data_format()
    lookup("data_format", data_format, _CHANNEL_AXES)
    return data_format


def _checked_image_shape(image_shape, data_format):
    if image_shape is None:
        return _ANY_SIZE[data_format]
    image_shape = check_each("image_shape", image_shape, _check_size, 3)
    axis = _CHANNEL_AXES[data_format]
    check_integer(f"image_shape[{axis}]", image_shape[axis])
    return image_shape


def _check_size(name, size):
    return None if size is None else check_integer(name, size)


def _check_smallest(sizes, stages):
    smallest = _STEM_STRIDE * 2 ** (stages - 1)
    if any(size is not None and size < smallest for size in sizes):
        raise ValueError(
            f"Height and width in `image_shape` must be at least {smallest}, or None. "
            f"Received: {sizes}"
        )
