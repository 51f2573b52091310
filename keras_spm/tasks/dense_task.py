"""The base class of tasks on a feature pyramid."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_spm.data.batching import ImageGeometry
from keras_spm.layers.macs import macs
from keras_spm.tasks.graph import data_format_of, levels_of, to_data_format
from keras_spm.tasks.image_task import ImageTask
from keras_spm.types import Shape


class DenseTask(ImageTask):
    """A task whose head, named by `head_argument`, reads the backbone's feature maps."""

    @property
    def head(self) -> keras.layers.Layer:
        """The head: a layer from pyramid levels to outputs."""
        return getattr(self, self.head_argument)

    def class_predictors(self) -> list[keras.layers.Layer]:
        find = getattr(self.head, "class_predictors", None)
        return [] if find is None else find()

    def image_size(self, images: Any) -> tuple:
        """Returns the (height, width) of a batch; symbolic or tensors in a compiled graph."""
        channels_first = data_format_of(self.backbone) == "channels_first"
        return tuple(ops.shape(images)[2:4] if channels_first else ops.shape(images)[1:3])

    def batches(self, images: list, batch_size: int) -> Iterator[tuple[Any, list[ImageGeometry]]]:
        """Yields (outputs of `predict`, `ImageGeometry` per image), batch by batch."""
        for start in range(0, len(images), batch_size):
            batch, geometries = self.batching(images[start : start + batch_size])
            yield self.predict_on_batch(to_data_format(batch, self.backbone)), geometries

    def check_class_order(self, class_names: Sequence[str] | None) -> None:
        """Raises `ValueError` unless a data set has the model's classes in their order."""
        if self.class_indices(class_names).tolist() != list(range(self.num_classes)):
            raise ValueError(
                f"The data must have the model's classes in the same order, {self.class_names}. "
                f"Received: {class_names}"
            )

    def macs(self, input_shape: Shape) -> int:
        total = macs(self.backbone, input_shape)
        shapes = self.backbone.pyramid_shapes(input_shape)
        return total + macs(self.head, {level: shapes[level] for level in levels_of(self.head)})
