"""What every backbone here is: a functional model of a stem and four stages."""

import keras

from keras_spm.layers.macs import macs
from keras_spm.registry import PRESET_FUNCTIONS

SMALLEST_SIZE = 32

_ANY_SIZE = {"channels_last": (None, None, 3), "channels_first": (3, None, None)}


class PyramidBackbone(keras.Model):
    """A hierarchical vision transformer: a stem and stages 1 to 4.

    A family builds its layers and hands them over; this class joins them and gives
    all families one interface:

    - `pyramid_outputs`: `{"P2": …, "P5": …}`, feature maps where Pn has stride 2**n;
    - `pyramid_level_inputs`: the layer that makes each level's (channels_last) map, by
      name;
    - `output`: the last feature map, (batch, ceil(H / 32), ceil(W / 32), channels), as
      the family's classifier sees it: P5, or P5 after a final normalization;
    - `pooled_output`: (batch, channels), what the family's own classifier reads.

    Images are (batch, H, W, 3), or (batch, 3, H, W) with
    `data_format="channels_first"`; feature maps come in the same format, while all
    layers inside work on channels_last maps.

    Args:
        stem: layer, image → map of stride 4.
        stages: four layers; the first keeps the stride, the others double it. The last
            may return a class token, (batch, channels), beside its map.
        config: dict of the family's own constructor arguments.
        final_norm: optional layer on the last map and on the class token.
        image_shape: (H, W, channels), or channels first with that data format; H and
            W from 32 on, or `None` for any size. By default any size and 3 channels.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras's
            configured one.
        dtype: dtype policy of the layers.
        frozen_stages: int from 0 to 4, see `freeze`.
        frozen_batch_normalization: bool, see `freeze`.
        gradient_checkpointing: bool, whether blocks are computed again for the gradient
            rather than kept, for large images: see `TransformerBlock`.

    Raises:
        ValueError: for an image smaller than 32 or an unknown data format.
    """

    # {short name: constructor arguments}, and what precedes them in long names.
    presets = {}
    preset_prefix = ""

    def __init__(
        self,
        stem,
        stages,
        config,
        final_norm=None,
        image_shape=None,
        data_format=None,
        dtype=None,
        frozen_stages=0,
        frozen_batch_normalization=False,
        gradient_checkpointing=False,
        name=None,
    ):
        # === Layers ===
        data_format = _checked_data_format(data_format)
        channels_first = data_format == "channels_first"
        image_shape = tuple(image_shape or _ANY_SIZE[data_format])
        _check_sizes(spatial_sizes(image_shape, data_format))
        pooling = keras.layers.GlobalAveragePooling2D("channels_last", dtype=dtype, name="pooling")
        for stage in stages:
            for block in stage.blocks:
                block.gradient_checkpointing = gradient_checkpointing

        def to_channels_first(maps, name):
            return keras.layers.Permute((3, 1, 2), dtype=dtype, name=name)(maps)

        # === Functional Model ===
        images = keras.Input(image_shape, name="images")
        maps = images
        if channels_first:
            maps = keras.layers.Permute((2, 3, 1), dtype=dtype, name="to_channels_last")(maps)
        maps = stem(maps)
        pyramid_outputs, pyramid_level_inputs = {}, {}
        for number, stage in enumerate(stages, start=2):
            level, maps, class_token, made_by = f"P{number}", stage(maps), None, stage.name
            if isinstance(maps, tuple):
                maps, class_token = maps
                # A layer whose only output is the map, for those who look it up by name.
                made_by = "feature_map"
                maps = keras.layers.Identity(dtype=dtype, name=made_by)(maps)
            pyramid_level_inputs[level] = made_by
            pyramid_outputs[level] = to_channels_first(maps, level) if channels_first else maps
        output = pyramid_outputs[level]
        if final_norm is not None:
            output = maps = final_norm(maps)
            if channels_first:
                output = to_channels_first(maps, "to_channels_first")
        pooled_output = pooling(maps) if class_token is None else final_norm(class_token)
        super().__init__(inputs=images, outputs=output, name=name)

        # === Config ===
        self.dtype_policy = keras.dtype_policies.get(dtype)
        self.image_shape = image_shape
        self.data_format = data_format
        self.gradient_checkpointing = gradient_checkpointing
        self._pyramid_outputs = pyramid_outputs
        self.pyramid_level_inputs = pyramid_level_inputs
        self.pooled_output = pooled_output
        self._final_norm = final_norm
        self._family_arguments = tuple(config)
        for name, value in config.items():
            setattr(self, name, value)
        self.freeze(frozen_stages, frozen_batch_normalization)

    @property
    def pyramid_outputs(self):
        """{"P2": …, "P5": …}, a plain dict, so that models can be made from it."""
        return dict(self._pyramid_outputs)

    @property
    def spatial_sizes(self):
        """(H, W) of the images, `None` where any size is taken."""
        return spatial_sizes(self.image_shape, self.data_format)

    @property
    def stem(self):
        """The layer from image to stride 4."""
        return self.get_layer("stem")

    @property
    def stages(self):
        """The four stages."""
        return [self.get_layer(f"stage{number}") for number in range(1, 5)]

    @property
    def layer_groups(self):
        """List of lists of layers and variables, in order: the stem, then one group per block.

        Layers before a stage's first block belong to the group of the block before; a stage's
        normalization belongs to the group of its last block.
        """
        groups = [[self.stem]]
        for stage in self.stages:
            groups[-1] += [
                part for part in (stage.merging, stage.position_embedding) if part is not None
            ]
            if hasattr(stage, "class_token"):
                groups[-1] += [stage.class_token, stage.class_position]
            groups += [[block] for block in stage.blocks]
            if stage.norm is not None:
                groups[-1].append(stage.norm)
        return groups

    @classmethod
    def from_preset(cls, name, load_weights=True, **overrides):
        """Builds a backbone and loads its weights; `load_report` on it says what was done.

        Args:
            name: one of `cls.presets`, or its long name (`"pvt_v2_b1"`; on
                `PyramidBackbone` itself, that of any family's); a folder, as
                `save_to_preset`, transformers or timm writes it; or such a folder's
                address on the hub, `"hf://owner/name"`, with `"@revision"` or not.
            load_weights: bool; `False` for random weights.
            **overrides: constructor arguments that replace the preset's.

        Raises:
            ValueError: for an unknown name (says the nearest), a preset without
                published weights, and a folder that holds another family.
            keras_spm.weights.WeightsError: where files cannot be had whole or do not fit.
        """
        return PRESET_FUNCTIONS["load"](cls, name, load_weights, overrides)

    def save_to_preset(self, folder):
        """Writes configuration and weights to a new folder, for `from_preset`.

        Args:
            folder: path; what is there already must be an empty folder.

        Raises:
            FileExistsError: otherwise. Nothing half-written stays behind.
        """
        PRESET_FUNCTIONS["save"](self, folder)

    def freeze(self, up_to_stage=4, batch_normalization=False):
        """Freezes the stem and stages 1 to `up_to_stage`; later stages train.

        The final normalization, where there is one, goes with stage 4. Frozen batch
        normalizations stay in evaluation. 0 freezes nothing. As always in Keras, a
        compiled model takes notice when it is compiled again.

        Args:
            up_to_stage: int from 0 to 4, kept as `frozen_stages`.
            batch_normalization: bool, whether the batch normalizations of all stages are
                frozen, for batches too small to make statistics of; kept as
                `frozen_batch_normalization`.
        """
        if up_to_stage not in range(5):
            raise ValueError(
                f"`up_to_stage` must be an int from 0 to 4. Received: up_to_stage={up_to_stage}"
            )
        self.frozen_stages = up_to_stage
        self.stem.trainable = up_to_stage == 0
        for number, stage in enumerate(self.stages, start=1):
            stage.trainable = number > up_to_stage
            for norm in _batch_normalizations(stage):
                # Both ways: on TensorFlow a stage that trained already hands nothing on.
                norm.trainable = stage.trainable and not batch_normalization
        if self._final_norm is not None:
            self._final_norm.trainable = up_to_stage < len(self.stages)
        self.frozen_batch_normalization = batch_normalization

    def macs(self, input_shape):
        """Returns the MACs of one image.

        Args:
            input_shape: (batch, H, W, channels), channels_last; the batch is not
                looked at.
        """
        total = 0
        for layer in (self.stem, *self.stages):
            total += macs(layer, input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        return total

    def pyramid_shapes(self, input_shape):
        """Returns the shapes of the (channels_last) feature maps.

        Args:
            input_shape: (batch, H, W, channels), channels_last.

        Returns:
            {"P2": (batch, H / 4, W / 4, channels), …}
        """
        shapes, shape = {}, self.stem.compute_output_shape(input_shape)
        for level, stage in zip(self._pyramid_outputs, self.stages, strict=True):
            shape = stage.compute_output_shape(shape)
            if isinstance(shape[0], tuple):
                shape, _ = shape  # With the class token's.
            shapes[level] = shape
        return shapes

    def get_config(self):
        return {
            **{name: getattr(self, name) for name in self._family_arguments},
            "image_shape": self.image_shape,
            "data_format": self.data_format,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "frozen_stages": self.frozen_stages,
            "frozen_batch_normalization": self.frozen_batch_normalization,
            "gradient_checkpointing": self.gradient_checkpointing,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _batch_normalizations(stage):
    for layer in getattr(stage.merging, "layers", [stage.merging]):
        yield from getattr(layer, "batch_normalizations", ())


def spatial_sizes(image_shape, data_format):
    """(H, W) of an `image_shape` as the constructor takes it; `None` where it is open."""
    if image_shape is None:
        return None, None
    channels_first = _checked_data_format(data_format) == "channels_first"
    return tuple(image_shape[1:] if channels_first else image_shape[:-1])


def _checked_data_format(data_format):
    data_format = data_format or keras.config.image_data_format()
    if data_format not in _ANY_SIZE:
        raise ValueError(
            f"`data_format` must be one of {tuple(_ANY_SIZE)}. "
            f"Received: data_format={data_format!r}"
        )
    return data_format


def _check_sizes(sizes):
    if any(size is not None and size < SMALLEST_SIZE for size in sizes):
        raise ValueError(
            f"Height and width in `image_shape` must be at least {SMALLEST_SIZE}, or None. "
            f"Received: {sizes}"
        )
