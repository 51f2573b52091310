"""What commands and recipes use of a task: predictions, their files and pictures, metrics."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_spm.data.batching import ImageGeometry
from keras_spm.data.preprocessing import stack_images
from keras_spm.data.transforms import to_pixels
from keras_spm.tasks.checks import as_images
from keras_spm.tasks.graph import channels_of, to_batch
from keras_spm.tasks.prediction_formats import PredictionFormat
from keras_spm.types import PathLike
from keras_spm.visualize import plot_images


class CommandMixin:
    """Predicts, describes, draws and evaluates, with defaults that hold for any task."""

    # Folder to which `keras-spm predict` writes pictures if no other is given.
    default_output: ClassVar[str | None] = None
    # Arguments of `predict_images` beside `batch_size`: options of `keras-spm predict`.
    prediction_options: ClassVar[tuple[str, ...]] = ()
    # {name: format} of the files that `keras-spm predict --format` writes.
    prediction_formats: ClassVar[dict[str, PredictionFormat]] = {}

    def predict_images(self, images: Sequence, batch_size: int = 8) -> list:
        """Returns a prediction for each image: by default the outputs, for images of one size.

        Images are paths, `PIL.Image`s or (height, width, channels) arrays with pixels in [0, 255].
        """
        channels = channels_of(self.backbone)
        images, _ = as_images(images, batch_size, channels)
        outputs = []
        for start in range(0, len(images), batch_size):
            batch = stack_images(images[start : start + batch_size], channels)
            outputs += list(self.predict_on_batch(to_batch(batch, self.backbone)))
        return outputs

    def select(self, prediction: Any, top: int, score_threshold: float) -> Any:
        """Returns a prediction as files of predictions take it; see `predict_record`."""
        return prediction

    def predict_record(
        self,
        prediction: Any,
        image: Any,
        top: int = 5,
        score_threshold: float = 0.3,
        output: PathLike | None = None,
    ) -> tuple[dict, str]:
        """Returns a dict that JSON can hold, and a line of text, for `keras-spm predict`.

        Args:
            prediction: one of the results of `predict_images`.
            image: as in `predict_images`.
            top: int, largest number of classes to list.
            score_threshold: float, lowest score of the objects to list.
            output: path of the PNG file to write, or `None`.
        """
        if output is not None:
            self.draw([image], output, predictions=[prediction])
        values = np.asarray(prediction)
        text = " ".join(np.array2string(values, separator=", ").split())  # In one line.
        return {"prediction": values.tolist()}, text

    def draw(
        self,
        images: Sequence,
        path: PathLike,
        targets: Any = None,
        predictions: Sequence | None = None,
    ) -> None:
        """Draws images with their targets, predictions, or both.

        Args:
            images: sequence of images, as in `predict_images`, or a batch.
            path: of the PNG file.
            targets: a batch of targets, as in `fit`, or a sequence of examples.
            predictions: results of `predict_images`.
        """
        titles = [""] * len(images)
        if predictions is not None:
            titles = [np.array2string(np.asarray(prediction)) for prediction in predictions]
        plot_images(images, titles, path)

    def evaluate_on(
        self,
        examples: Sequence[dict],
        class_names: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> dict[str, float]:
        """Measures the model on examples.

        Args:
            examples: sequence of dicts, as the readers of `keras_spm.data` return them.
            class_names: of the classes in the examples; the model's by default.
            batch_size: int.

        Returns:
            {metric: float}; the metric of a single class is named "metric/class".

        Raises:
            ValueError: if the classes of the examples and of the model do not match.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `evaluate_on`.")

    def read_image(self, image: Any) -> np.ndarray:
        """Returns an image as (height, width, channels) uint8, with the channels of the model."""
        return to_pixels(image, channels_of(self.backbone))

    def model_input(self, image: Any) -> tuple[np.ndarray, ImageGeometry]:
        """Returns the batch that the model gets for an image, and where the image is in it."""
        batch = stack_images([image], channels_of(self.backbone))
        size = batch.shape[1:3]
        return to_batch(batch, self.backbone), ImageGeometry(size, size)

    def class_logits(self) -> keras.KerasTensor:
        """Returns symbolic logits of the model's graph, (batch, …, num_classes), to explain them.

        Raises:
            ValueError: if the task has no logits of a whole image or of its pixels.
        """
        raise ValueError(
            f"{type(self).__name__} has no class logits to explain. ImageClassifier and "
            "SemanticSegmenter have."
        )

    @property
    def display_names(self) -> list[str]:
        """`class_names`, or the indices of the classes as strings."""
        return self.class_names or [str(index) for index in range(self.num_classes)]

    def class_indices(self, class_names: Sequence[str] | None) -> np.ndarray:
        """Returns the model's index of each class of a data set, by name or else by order.

        Raises:
            ValueError: for other class names and another number of classes.
        """
        if class_names is None:
            return np.arange(self.num_classes)
        known = self.class_names or list(class_names)
        if set(class_names) <= set(known) and len(known) == self.num_classes:
            return np.array([known.index(name) for name in class_names])
        if len(class_names) != self.num_classes:
            unknown = [name for name in class_names if name not in known]
            raise ValueError(
                f"The data must have the model's {self.num_classes} classes, or some of them by "
                f"name. Received: {len(class_names)} classes, unknown are {unknown[:5]}"
            )
        return np.arange(self.num_classes)
