"""Image classification on any backbone of this package."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import check_integer, check_number
from keras_spm.data.batching import ImageGeometry
from keras_spm.data.pipeline import EvaluationBatches
from keras_spm.data.preprocessing import ImagePreprocessing, stack_images
from keras_spm.layers.dense import Dense
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.macs import macs
from keras_spm.tasks.checks import (
    as_images,
    check_backbone,
    check_labels,
    check_multi_labels,
    make_preprocessing,
)
from keras_spm.tasks.distillation import DistillationMixin
from keras_spm.tasks.graph import channels_of, connect_backbone, default_statistics, to_batch
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.inference import flips
from keras_spm.tasks.prediction_formats import CLASSIFICATION_FORMATS
from keras_spm.tasks.probabilities import label_title, most_probable, to_probabilities
from keras_spm.tasks.replicated_loss import ignored_class
from keras_spm.types import PathLike, Shape
from keras_spm.visualize import plot_images

_TOP = 5  # Of top-5 accuracy.


class ImageClassifier(DistillationMixin, ImageTask):
    """Raw images in, class logits out.

    Images are (batch, height, width, channels) with pixels in [0, 255], normalized inside the
    model; the channels are those of the backbone, by default 3.
    The output is (batch, num_classes) in float32. Targets are integer labels, or, with
    `multi_label`, (batch, num_classes) of 0 and 1.

    Args:
        backbone: a backbone of this package.
        num_classes: int, at least 2, or 1 with `multi_label`.
        class_names: optional `num_classes` distinct strings, saved with the model.
        activation: of the last layer; `None` for logits.
        dropout: float, dropout rate before the last layer.
        mean, std: floats per channel, for pixels scaled to [0, 1]; by default ImageNet's, their
            average for gray images, and in turn for more than three channels.
        preprocessing: optional `keras_spm.data.ImagePreprocessing`, or a dict of its
            arguments, that `classify` applies to images first. Saved with the model. By
            default images keep their size, or are resized to that of the backbone's
            `image_shape`, if it has one.
        multi_label: bool, whether an image can have any number of classes.
        **kwargs: `name` and `trainable`.

    Raises:
        ValueError: for an argument that is not one of these.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=10)
    >>> images = np.random.randint(0, 256, (8, 32, 32, 3), dtype="uint8")
    >>> history = model.fit(images, np.arange(8), verbose=0)
    >>> model.classify(images[0], top=2)  # doctest: +SKIP
    [('3', 0.2), ('7', 0.1)]
    """

    pipeline_tag = "image-classification"
    prediction_options = ("tta",)
    prediction_formats = CLASSIFICATION_FORMATS
    _weight_decay = 0.05

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        activation: str | Callable | None = None,
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        preprocessing: ImagePreprocessing | dict | None = None,
        multi_label: bool = False,
        **kwargs: Any,
    ) -> None:
        check_backbone(backbone)
        # A single class has no loss but that of a yes or no.
        num_classes = check_integer("num_classes", num_classes, 1 if multi_label else 2)
        check_number("dropout", dropout, maximum=1)
        preprocessing = make_preprocessing(preprocessing, backbone)
        mean, std = default_statistics(mean, std, backbone)

        # === Layers ===
        policy = backbone.dtype_policy
        normalization = ImageNormalization(
            mean, std, data_format=backbone.data_format, dtype=policy, name="normalization"
        )
        dropout_layer = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        # float32 under every policy: half precision is too coarse for the loss.
        head = Dense(num_classes, dtype="float32", name="head")
        activation = keras.activations.get(activation)

        # === Functional Model ===
        images = keras.Input(backbone.image_shape, name="images")
        _, features = connect_backbone(backbone, normalization(images))
        outputs = head(dropout_layer(features))
        if activation is not keras.activations.linear:
            activate = keras.layers.Activation(activation, dtype="float32", name="activation")
            outputs = activate(outputs)
        super().__init__(
            inputs=images,
            outputs=outputs,
            backbone=backbone,
            config={
                "num_classes": num_classes,
                "class_names": class_names,
                "activation": activation,
                "dropout": dropout,
                "mean": tuple(mean),
                "std": tuple(std),
                "preprocessing": preprocessing,
                "multi_label": multi_label,
            },
            **kwargs,
        )
        self.compile()

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """Configures training.

        Args:
            optimizer: by default AdamW, learning rate 1e-4, weight decay 0.05 on kernels.
            loss: by default cross-entropy with integer labels; with `multi_label`, binary
                cross-entropy of each class.
            metrics: by default accuracy, and with `multi_label` also the mean average
                precision over classes.
            **kwargs: as in `keras.Model.compile`.
        """
        if metrics == "auto":
            if self.multi_label:
                metrics = self.multi_label_metrics()
            elif loss == "auto":
                # Not by name: Keras would create it in the first step, which TensorFlow would
                # then trace twice.
                metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
            else:
                metrics = ["accuracy"]
        if loss == "auto":
            if self.multi_label:
                loss = keras.losses.BinaryCrossentropy(self._outputs_logits)
            else:
                loss = keras.losses.SparseCategoricalCrossentropy(self._outputs_logits)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def check_targets(self, images: np.ndarray, targets: Any) -> None:
        loss = self.loss
        if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
            check_labels(targets, self.num_classes, ignored_class(loss))
        elif self.multi_label and isinstance(loss, keras.losses.BinaryCrossentropy):
            check_multi_labels(targets, self.num_classes)

    def class_predictors(self) -> list[keras.layers.Layer]:
        return [self.get_layer("head")]

    @property
    def _outputs_logits(self):
        return self.activation is keras.activations.linear

    @property
    def output_name(self) -> str:
        return "logits" if self._outputs_logits else "probabilities"

    def multi_label_metrics(self) -> list[keras.metrics.Metric]:
        """Returns `accuracy`, over all classes, and `average_precision`, the mean over classes."""
        threshold = 0.0 if self._outputs_logits else 0.5
        return [
            keras.metrics.BinaryAccuracy("accuracy", threshold=threshold),
            keras.metrics.AUC(
                curve="PR",
                name="average_precision",
                multi_label=True,
                num_labels=self.num_classes,
                from_logits=self._outputs_logits,
            ),
        ]

    def classify(
        self, images: Any, top: int = 5, batch_size: int = 32, tta: str | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Returns the most probable classes.

        Args:
            images: one or several paths, `PIL.Image`s or (height, width, channels) arrays with
                pixels in [0, 255]. They go through `preprocessing`, if the model has one; otherwise
                several images must have the same size.
            top: int, number of classes.
            batch_size: int.
            tta: `"flip"` averages the probabilities of images and flipped images.

        Returns:
            For each image a list of (class name, probability), the most probable first; for
            a single image that list alone. Without `class_names`, a class is named by its index.

        Raises:
            FileNotFoundError, ValueError: for a missing file or one that is not an image.
        """
        check_integer("top", top)
        images, single = as_images(images, batch_size, channels_of(self.backbone))
        probabilities = self._probabilities(images, batch_size, tta)
        classes = [self.select(row, top, 0) for row in probabilities]
        return classes[0] if single else classes

    def predict_images(
        self, images: Sequence, batch_size: int = 32, tta: str | None = None
    ) -> list[np.ndarray]:
        """Returns the probabilities of each image, (num_classes,); see `classify`."""
        images, _ = as_images(images, batch_size, channels_of(self.backbone))
        return self._probabilities(images, batch_size, tta)

    def select(self, prediction: np.ndarray, top: int, score_threshold: float) -> list:
        return most_probable(prediction, self.display_names, top)

    def predict_record(
        self,
        prediction: np.ndarray,
        image: Any,
        top: int = 5,
        score_threshold: float = 0.3,
        output: PathLike | None = None,
    ) -> tuple[dict, str]:
        if output is not None:
            self.draw([image], output, predictions=[prediction])
        classes = self.select(prediction, top, score_threshold)
        record = {"classes": [{"name": name, "probability": share} for name, share in classes]}
        return record, "  ".join(f"{name} {share:.1%}" for name, share in classes)

    def draw(
        self,
        images: Sequence,
        path: PathLike,
        targets: Any = None,
        predictions: Sequence | None = None,
    ) -> None:
        titles = [[] for _ in images]
        for index, title in enumerate(titles):
            if targets is not None:
                target = targets[index]
                label = target["label"] if isinstance(target, dict) else target
                title.append(label_title(label, self.display_names))
            if predictions is not None:
                ((name, probability),) = self.select(predictions[index], 1, 0)
                title.append(f"predicted: {name} {probability:.0%}")
        plot_images(images, ["\n".join(title) for title in titles], path)

    def evaluate_on(
        self,
        examples: Sequence[dict],
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> dict[str, float]:
        """Returns `accuracy`, `loss`, and `top_5_accuracy` for more than 5 classes.

        With `multi_label`: `accuracy`, `loss` and `average_precision`.
        """
        multi_label = getattr(examples, "multi_label", False)
        if multi_label != self.multi_label:
            raise ValueError(
                "The data and the model must both be multi-label or both not. Received: data with "
                f"multi_label={multi_label}, a model with multi_label={self.multi_label}"
            )
        indices = self.class_indices(class_names)
        labels = [None] * len(examples)

        def read(index):
            example = examples[index]
            labels[index] = example["label"]
            return self._read(example["image"])

        batches = EvaluationBatches(range(len(examples)), read, self._stack, batch_size)
        outputs = self.predict(batches, verbose=0)
        labels = np.stack(labels)
        if self.multi_label:
            targets = np.zeros((len(labels), self.num_classes), "float32")
            targets[:, indices] = labels
            return self._multi_label_results(targets, outputs)
        return self._single_label_results(indices[labels], outputs)

    def _single_label_results(self, labels, outputs):
        top = np.argsort(-outputs, axis=-1, kind="stable")[:, :_TOP]
        correct = top == labels[:, None]
        loss = keras.losses.sparse_categorical_crossentropy(
            labels, outputs, from_logits=self._outputs_logits
        )
        results = {"accuracy": float(correct[:, 0].mean())}
        if self.num_classes > _TOP:
            results["top_5_accuracy"] = float(correct.any(axis=-1).mean())
        return {**results, "loss": float(np.mean(keras.ops.convert_to_numpy(loss)))}

    def _multi_label_results(self, labels, outputs):
        metrics = [keras.metrics.BinaryCrossentropy("loss", from_logits=self._outputs_logits)]
        metrics += self.multi_label_metrics()
        for metric in metrics:
            metric.update_state(labels, outputs)
        return {metric.name: float(metric.result()) for metric in metrics}

    def _read(self, image):
        return image if self.preprocessing is None else self.preprocessing(image)

    def _stack(self, images):
        batch = stack_images(images, channels_of(self.backbone))
        return to_batch(batch, self.backbone)

    def _probabilities(self, images, batch_size, tta):
        probabilities, flipped = [], flips(tta)
        for start in range(0, len(images), batch_size):
            batch = [self._read(each) for each in images[start : start + batch_size]]
            batch = stack_images(batch, channels_of(self.backbone))
            views = [batch[:, :, ::-1] if flip else batch for flip in flipped]
            outputs = [self.predict_on_batch(to_batch(view, self.backbone)) for view in views]
            if self._outputs_logits:
                outputs = [to_probabilities(each, self.multi_label) for each in outputs]
            probabilities += list(np.mean(outputs, axis=0) if len(outputs) > 1 else outputs[0])
        return probabilities

    def model_input(self, image: Any) -> tuple[np.ndarray, ImageGeometry]:
        if self.preprocessing is None:
            return super().model_input(image)
        image = self.read_image(image)
        geometry = self.preprocessing.geometry(image.shape[:2])
        return self._stack([self._read(image)]), geometry

    def class_logits(self) -> keras.KerasTensor:
        return self.get_layer("head").output

    def macs(self, input_shape: Shape) -> int:
        pooled_shape = self.backbone.pooled_output.shape
        return macs(self.backbone, input_shape) + macs(self.get_layer("head"), pooled_shape)

    def get_config(self) -> dict[str, Any]:
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}
