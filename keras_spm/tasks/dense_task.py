"""What tasks on a feature pyramid share."""

import keras

from keras_spm.data.batching import ImageBatching
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.macs import macs
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.image_task import checked_names


class DenseTask(ImageTask):
    """A task on the backbone's feature maps, for images of any size.

    Subclasses name their layers `feature_pyramid` and `head`, and define `levels`, the
    names of the maps that they start from.

    Args:
        inputs, outputs: of the functional model, see `pyramid_inputs`.
        backbone: the backbone in it.
        config: dict of the task's other constructor arguments: each becomes an attribute
            and is in `get_config`. Among them are `num_classes`, `class_names` (checked
            here), `mean`, `std`, and `batching`, an `ImageBatching`, a dict
            of its arguments, or `None` for images at their own size.

    Raises:
        ValueError: where `class_names` are not distinct or not as many as classes.
    """

    def __init__(self, inputs, outputs, backbone, config, **kwargs):
        class_names = checked_names(config["class_names"], config["num_classes"])
        batching = config["batching"]
        if not isinstance(batching, ImageBatching):
            batching = ImageBatching(**(batching or {}))
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.backbone = backbone
        self._task_arguments = tuple(config)
        for name, value in {**config, "class_names": class_names, "batching": batching}.items():
            setattr(self, name, value)

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **{name: getattr(self, name) for name in self._task_arguments},
            "batching": self.batching.get_config(),
            "name": self.name,
            "trainable": self.trainable,
        }

    def predictions(self, images, batch_size):
        """Yields what `predict` gives for images of any size, a batch at a time.

        Args:
            images: sequence, as `keras_spm.data.ImageBatching` takes it.
            batch_size: int.

        Yields:
            (outputs, geometries): of the batch, and an `ImageGeometry` for each image.
        """
        for start in range(0, len(images), batch_size):
            batch, geometries = self.batching(images[start : start + batch_size])
            if data_format_of(self.backbone) == "channels_first":
                batch = batch.transpose(0, 3, 1, 2)
            yield self.predict_on_batch(batch), geometries

    def macs(self, input_shape):
        """Returns the MACs of one image of shape (batch, height, width, 3).

        Raises:
            TypeError: for a backbone of another package, whose cost is not known.
        """
        total = macs(self.backbone, input_shape)
        shapes = self.backbone.pyramid_shapes(input_shape)
        shapes = {level: shapes[level] for level in self.levels}
        pyramid, head = self.get_layer("feature_pyramid"), self.get_layer("head")
        total += pyramid.macs(shapes)
        return total + head.macs(pyramid.compute_output_shape(shapes))


def pyramid_inputs(backbone, levels, mean, std):
    """Starts a functional model.

    Args:
        backbone: a functional model with `pyramid_outputs`.
        levels: names of those wanted.
        mean, std: see `ImageNormalization`.

    Returns:
        (images, maps): the symbolic images in the backbone's data format, and {level:
        symbolic map (batch, height, width, channels)}.

    Raises:
        ValueError: where the backbone lacks a level.
    """
    dtype, data_format = backbone.dtype_policy, data_format_of(backbone)
    normalization = ImageNormalization(
        mean, std, data_format=data_format, dtype=dtype, name="normalization"
    )
    outputs = _pyramid_outputs(backbone, levels)
    features = keras.Model(backbone.input, outputs, name="features")
    images = keras.Input(backbone.input.shape[1:], name="images")
    maps = features(normalization(images))
    if data_format == "channels_first":
        to_last = keras.layers.Permute((2, 3, 1), dtype=dtype)
        maps = {level: to_last(each) for level, each in maps.items()}
    return images, maps


def data_format_of(backbone):
    """Returns where a backbone's channels are; one that does not say has Keras's default."""
    return getattr(backbone, "data_format", keras.config.image_data_format())


def _pyramid_outputs(backbone, levels):
    outputs = dict(backbone.pyramid_outputs)
    if list(outputs) == ["P1", "P2", "P3", "P4"]:
        # KerasHub's MiT counts its stages, not how often they have halved the image.
        outputs = dict(zip(("P2", "P3", "P4", "P5"), outputs.values(), strict=True))
    if not set(levels) <= set(outputs):
        raise ValueError(
            f"`backbone` must have {', '.join(levels)} in its `pyramid_outputs`. "
            f"Received: {type(backbone).__name__} with {', '.join(outputs)}"
        )
    return {level: outputs[level] for level in levels}
