"""Semantic segmentation on any backbone with a feature pyramid."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.arguments import check_integer
from keras_spm.backend import resize_on_host
from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.data.batching import ImageBatching, ImageGeometry
from keras_spm.files import atomic_write
from keras_spm.heads.semantic_fpn import SemanticFPN
from keras_spm.layers.resizing import ResizeLike
from keras_spm.metrics.segmentation import MeanIoU, PixelAccuracy
from keras_spm.tasks.auxiliary_loss import connect_auxiliary, split_logits
from keras_spm.tasks.checks import (
    as_images,
    check_backbone,
    check_colors,
    check_segmentation_maps,
    make_batching,
)
from keras_spm.tasks.dense_task import DenseTask
from keras_spm.tasks.graph import channels_of, connect_pyramid, data_format_of, default_statistics
from keras_spm.tasks.inference import Views, mean_of_views
from keras_spm.tasks.pixel_weights import class_weights, weigh_classes, weigh_images
from keras_spm.tasks.prediction_formats import (
    SEGMENTATION_FORMATS,
    PredictedImage,
    write_segmentation_map,
)
from keras_spm.tasks.replicated_loss import ignored_class, share_of_loss
from keras_spm.types import PathLike, Tensor
from keras_spm.visualize import plot_segmentations

_IGNORE_CLASS = 255  # As in the files of most data sets.


class SemanticSegmenter(DenseTask):
    """Raw images in, class logits for every pixel out.

    Images are (batch, height, width, channels) with pixels in [0, 255], normalized inside the
    model; the channels are those of the backbone, by default 3.
    The output is (batch, height, width, num_classes) in float32, upsampled bilinearly from
    the decoder's output. Targets are integer segmentation maps, (batch, height, width). If the
    decoder has an `auxiliary_head`, `model(images, training=True)` returns a dict of `logits` and
    `auxiliary_logits`, and the loss in training is their sum, weighted by `auxiliary_weight`.

    Args:
        backbone: a backbone of this package, or another functional model with
            `pyramid_outputs` of strides 4 to 32, such as KerasHub's.
        num_classes: int, at least 2. A binary mask has the classes 0 and 1.
        decoder: layer from {"P2": map, …} to logits of any stride, (batch, rows, columns,
            num_classes); `keras_spm.heads.SemanticFPN()` by default.
        class_names: optional `num_classes` distinct strings, saved with the model.
        ignore_class: int, label of pixels that count neither in the loss nor in metrics;
            `None` if all count.
        mean, std: floats per channel, for pixels scaled to [0, 1]; by default ImageNet's, their
            average for gray images, and in turn for more than three channels.
        batching: optional `keras_spm.data.ImageBatching`, or a dict of its arguments: how
            `segment` collates images. By default images keep their size, or are resized and
            padded to the backbone's, if that is a single one and square.
        class_colors: optional `num_classes` colors in pictures and PNG maps, red, green and blue
            from 0 to 255, saved with the model; by default those of `visualize.class_colors`.
        **kwargs: `name` and `trainable`.

    Raises:
        ValueError: for an argument that is not one of these, or a backbone without the
            decoder's levels.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.SemanticSegmenter(backbone, num_classes=3)
    >>> images = np.random.randint(0, 256, (2, 64, 64, 3), dtype="uint8")
    >>> history = model.fit(images, np.random.randint(0, 3, (2, 64, 64)), verbose=0)
    >>> model.segment([images[0], images[1][:40]])[1].shape
    (40, 64)
    """

    pipeline_tag = "image-segmentation"
    head_argument = "decoder"
    output_name = "logits"
    default_output = "predictions"
    prediction_formats = SEGMENTATION_FORMATS
    class_colors: list[list[int]] | None = None
    _class_weights: tuple[float, ...] | None = None

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        decoder: keras.layers.Layer | None = None,
        class_names: Sequence[str] | None = None,
        ignore_class: int | None = _IGNORE_CLASS,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batching: ImageBatching | dict | None = None,
        class_colors: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        check_backbone(backbone)
        num_classes = check_integer("num_classes", num_classes, 2)
        if ignore_class == _IGNORE_CLASS < num_classes:
            raise ValueError(
                f"`ignore_class` must not be one of the {num_classes} classes. Received: "
                f"ignore_class={ignore_class}. Pass `None`, or a number such as -1."
            )
        decoder = decoder or SemanticFPN()
        mean, std = default_statistics(mean, std, backbone)
        batching = make_batching(batching, backbone)

        # === Functional Model ===
        images, maps = connect_pyramid(backbone, decoder, "decoder", num_classes, mean, std)
        logits = decoder(maps)
        if logits.shape[-1] != num_classes:
            raise ValueError(
                f"`decoder` must output {num_classes} channels, one per class. "
                f"Received: an output of shape {logits.shape}"
            )
        data_format = data_format_of(backbone)
        upsampling = ResizeLike(data_format, dtype="float32", name="upsampling")
        outputs = upsampling([logits, images])
        super().__init__(
            inputs=images,
            outputs=outputs,
            backbone=backbone,
            config={
                "num_classes": num_classes,
                "decoder": decoder,
                "class_names": class_names,
                "ignore_class": ignore_class,
                "mean": tuple(mean),
                "std": tuple(std),
                "batching": batching,
                "class_colors": check_colors(class_colors, num_classes),
            },
            **kwargs,
        )
        self._call_in_training = connect_auxiliary(decoder, maps, outputs, images, data_format)
        self.compile()

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Any:
        if training and self._call_in_training is not None:
            return self._call_in_training(inputs)
        return super().call(inputs, training, mask)

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """Configures training.

        Args:
            optimizer: by default AdamW, learning rate 1e-4, weight decay 1e-4 on kernels.
            loss: by default cross-entropy, averaged over the pixels that count.
            metrics: by default mean intersection over union and pixel accuracy.
            **kwargs: as in `keras.Model.compile`.
        """
        if loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=self.ignore_class
            )
        if metrics == "auto":
            ignored = self.ignore_class
            metrics = [MeanIoU(self.num_classes, ignored), PixelAccuracy(ignored)]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def check_targets(self, images: np.ndarray, targets: Any) -> None:
        loss = self.loss
        if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
            size = self.image_size(images)
            check_segmentation_maps(targets, size, self.num_classes, ignored_class(loss))

    def fit(
        self, *args: Any, class_weight: dict[int, float] | None = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the model, as `ImageTask.fit`.

        Args:
            *args, **kwargs: as in `ImageTask.fit`. `sample_weight` may have a weight for each
                image, (batch,), or for each pixel.
            class_weight: optional {class: weight of its pixels in the loss}, 1 for others. As
                in Keras, the sum of the weighted losses is divided by the number of pixels.

        Raises:
            ValueError: for invalid targets or weights.
        """
        weights = class_weights(class_weight, self.num_classes)
        if weights != self._class_weights:
            self._class_weights = weights
            self.train_function = None  # It has the old weights as constants.
        return super().fit(*args, **kwargs)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        y_pred, auxiliary_logits = split_logits(y_pred)
        sample_weight = weigh_images(sample_weight, y_pred)
        if training and self._class_weights is not None:
            sample_weight = weigh_classes(sample_weight, y, self._class_weights)
        # A copy: Keras multiplies weights in place on PyTorch.
        weight_copy = None if sample_weight is None else ops.copy(sample_weight)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        if auxiliary_logits is not None and self._compile_loss is not None:
            auxiliary_loss = self._compile_loss(y, auxiliary_logits, weight_copy)
            loss = loss + self.decoder.auxiliary_weight * auxiliary_loss
        return loss * share_of_loss(self.loss, y)

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        y_pred, _ = split_logits(y_pred)
        sample_weight = weigh_images(sample_weight, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def segment(
        self,
        images: Any,
        batch_size: int = 8,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        tta: str | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Predicts the class of every pixel, for images of any size.

        Args:
            images: one or several paths, `PIL.Image`s or (height, width, channels) arrays with
                pixels in [0, 255].
            batch_size: int, number of images, or of their windows, that are predicted at once.
            tile: int or (height, width), at least 32: size of overlapping windows, in pixels of
                the image. Each is predicted like an image of its own, so `batching` may resize
                it, and their logits are averaged. By default an image is predicted as a whole.
            overlap: float from 0 to below 1, the least share of a window that the next one
                covers.
            tta: `"flip"` averages the logits of images and flipped images.

        Returns:
            For each image a (height, width) array of classes, of the image's own size; for a
            single image that array alone.

        Raises:
            FileNotFoundError, ValueError: for a missing file or one that is not an image, and
                for an argument out of range.
        """
        images, single = as_images(images, batch_size, channels_of(self.backbone))
        logits = self.segment_logits(images, batch_size, tile, overlap, tta)
        maps = [np.argmax(each, axis=-1) for each in logits]
        return maps[0] if single else maps

    def segment_logits(
        self,
        images: Any,
        batch_size: int = 8,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        tta: str | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields the logits of each image, (height, width, num_classes) float32; see `segment`."""
        views = Views(tile, overlap, tta, channels_of(self.backbone))
        images, _ = as_images(images, batch_size, channels_of(self.backbone))
        return map(mean_of_views, self.predict_views(images, views, batch_size))

    def to_original_size(
        self, outputs: np.ndarray, geometries: list[ImageGeometry]
    ) -> Iterator[np.ndarray]:
        for logits, geometry in zip(outputs, geometries, strict=True):
            rows, columns = geometry.resized
            logits = logits[:rows, :columns]
            if geometry.resized != geometry.original:
                logits = resize_on_host(logits, geometry.original)
            yield logits

    def class_logits(self) -> keras.KerasTensor:
        return self.output

    def predict_images(
        self, images: Sequence, batch_size: int = 8, **options: Any
    ) -> list[np.ndarray]:
        """Returns the map of each image; the options are those of `segment`."""
        return self.segment(list(images), batch_size, **options)

    def predict_record(
        self,
        prediction: np.ndarray,
        image: Any,
        top: int = 5,
        score_threshold: float = 0.3,
        output: PathLike | None = None,
    ) -> tuple[dict, str]:
        """Describes the areas of the largest classes; the PNG is the segmentation map."""
        names = self.display_names
        shares = np.bincount(prediction.ravel(), minlength=len(names)) / prediction.size
        largest = np.argsort(-shares, kind="stable")[:top]
        shares = {names[index]: float(shares[index]) for index in largest if shares[index]}
        record = {"shares": shares}
        text = "  ".join(f"{name} {share:.1%}" for name, share in shares.items())
        if output is not None:
            with atomic_write(output) as temporary:
                image = PredictedImage(output, prediction.shape, prediction)
                write_segmentation_map(self, [image], temporary)
            record = {"segmentation_map": str(output), **record}
            text = f"{text}  → {output}"
        return record, text

    def draw(
        self,
        images: Sequence,
        path: PathLike,
        targets: Any = None,
        predictions: Sequence | None = None,
    ) -> None:
        if targets is not None:
            targets = [
                target["segmentation_map"] if isinstance(target, dict) else target
                for target in targets[: len(images)]
            ]
        plot_segmentations(
            images, targets, predictions, self.display_names, path, self.class_colors
        )

    def evaluate_on(
        self,
        examples: Sequence[dict],
        class_names: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> dict[str, float]:
        """Returns `mean_iou`, `pixel_accuracy`, and `iou/class` for each class."""
        self.check_class_order(class_names)
        evaluation = SegmentationEvaluation(examples, batch_size=batch_size)
        metrics = evaluation.measure(self)
        names = class_names or self.display_names
        per_class = zip(names, evaluation.per_class.tolist(), strict=True)
        return {**metrics, **{f"iou/{name}": value for name, value in per_class}}
