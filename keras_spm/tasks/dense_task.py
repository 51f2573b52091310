"""The base class of tasks on a feature pyramid."""

import typing

import keras

from keras_spm.data.batching import ImageBatching
from keras_spm.data.batching import ImageGeometry
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.macs import macs
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.image_task import connect_backbone
from keras_spm.tasks.image_task import data_format_of
from keras_spm.types import Shape

_ALL_LEVELS = ("P2", "P3", "P4", "P5")


class DenseTask(ImageTask):
    """A task whose head reads the backbone's feature maps, for images of any size.

    The subclass names its head's constructor argument in `head_argument`; the layer has the
    same name in the model.
    """

    @property
    def head(self) -> keras.layers.Layer:
        """The head: a layer from pyramid levels to outputs."""
        return getattr(self, self.head_argument)

    def class_predictors(self) -> list[keras.layers.Layer]:
        find = getattr(self.head, "class_predictors", None)
        return [] if find is None else find()

    def batches(
        self, images: typing.Sequence, batch_size: int
    ) -> typing.Iterator[tuple[typing.Any, list[ImageGeometry]]]:
        """Yields the outputs of `predict` for images of any size, batch by batch.

        Args:
            images: sequence, as in `keras_spm.data.ImageBatching`.
            batch_size: int.

        Yields:
            (outputs, geometries): of the batch, and an `ImageGeometry` for each image.
        """
        for start in range(0, len(images), batch_size):
            batch, geometries = self.batching(images[start : start + batch_size])
            if data_format_of(self.backbone) == "channels_first":
                batch = batch.transpose(0, 3, 1, 2)
            yield self.predict_on_batch(batch), geometries

    def macs(self, input_shape: Shape) -> int:
        total = macs(self.backbone, input_shape)
        shapes = self.backbone.pyramid_shapes(input_shape)
        return total + macs(self.head, {level: shapes[level] for level in _levels(self.head)})


def connect_head(
    backbone: keras.Model,
    head: keras.layers.Layer,
    head_name: str,
    num_classes: int,
    mean: typing.Sequence[float],
    std: typing.Sequence[float],
) -> tuple[keras.KerasTensor, typing.Any]:
    """Builds the graph from raw images to the outputs of a head.

    An unbuilt head takes over the backbone's dtype policy, and `num_classes` and the name
    if it has none.

    Args:
        backbone: a functional model with `pyramid_outputs`.
        head: layer from {level: map} to outputs; its attribute `levels` names the levels
            (all four by default).
        head_name: the name that the layer gets.
        num_classes: int.
        mean: floats, see `ImageNormalization`.
        std: floats, see `ImageNormalization`.

    Returns:
        (images, outputs): symbolic images in the backbone's data format, and the outputs.

    Raises:
        ValueError: if the backbone does not have a level, or the head is for another
            number of classes.
    """
    dtype, data_format = backbone.dtype_policy, data_format_of(backbone)
    if getattr(head, "num_classes", num_classes) is None:
        head.num_classes = num_classes
    elif getattr(head, "num_classes", num_classes) != num_classes:
        raise ValueError(
            f"`{head_name}` must be for {num_classes} classes. "
            f"Received: {type(head).__name__} with num_classes={head.num_classes}"
        )
    if not head.built:
        head.name = head_name
        head.dtype_policy = dtype
    normalization = ImageNormalization(
        mean, std, data_format=data_format, dtype=dtype, name="normalization"
    )
    images = keras.Input(backbone.input.shape[1:], name="images")
    maps, _ = connect_backbone(backbone, normalization(images), _levels(head))
    if data_format == "channels_first":
        to_last = keras.layers.Permute((2, 3, 1), dtype=dtype)
        maps = {level: to_last(each) for level, each in maps.items()}
    return images, head(maps)


def checked_batching(batching: ImageBatching | dict | None) -> ImageBatching:
    """Returns an `ImageBatching` of a constructor argument; `None` keeps images' sizes."""
    return batching if isinstance(batching, ImageBatching) else ImageBatching(**(batching or {}))


def _levels(head):
    return getattr(head, "levels", _ALL_LEVELS)
