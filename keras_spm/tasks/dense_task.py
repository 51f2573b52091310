"""The base class of tasks on a feature pyramid."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.data.batching import ImageGeometry
from keras_spm.data.images import ImageLike
from keras_spm.layers.macs import macs
from keras_spm.tasks.graph import levels_of, to_batch
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.inference import View, Views
from keras_spm.types import Shape


class DenseTask(ImageTask):
    """A task whose head, named by `head_argument`, reads the backbone's feature maps."""

    prediction_options = ("tile", "overlap", "tta")

    @property
    def head(self) -> keras.layers.Layer:
        """The head: a layer from pyramid levels to outputs."""
        return getattr(self, self.head_argument)

    def class_predictors(self) -> list[keras.layers.Layer]:
        find = getattr(self.head, "class_predictors", None)
        return [] if find is None else find()

    def predict_views(
        self, images: Iterable[ImageLike], views: Views, batch_size: int
    ) -> Iterator[Iterator[tuple[View, Any]]]:
        """Yields for each image an iterator of (view, prediction in pixels of the view).

        Each iterator must be read before the next one. `batch_size` counts views.
        """
        results = self._view_results(views(images), batch_size)
        for _, group in itertools.groupby(results, key=lambda result: result[0].image):
            yield group

    def _view_results(self, views, batch_size):
        while batch := list(itertools.islice(views, batch_size)):
            images, geometries = self.batching([view.pixels for view in batch])
            outputs = self.predict_on_batch(to_batch(images, self.backbone))
            yield from zip(batch, self.to_original_size(outputs, geometries), strict=True)

    def to_original_size(self, outputs: Any, geometries: list[ImageGeometry]) -> Iterable:
        """Returns the prediction for each image of a batch, in pixels of the image itself.

        Args:
            outputs: of `predict` for the batch.
            geometries: of the images in the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `to_original_size`.")

    def model_input(self, image: Any) -> tuple[np.ndarray, ImageGeometry]:
        batch, (geometry,) = self.batching([image])
        return to_batch(batch, self.backbone), geometry

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
