"""Semantic segmentation on any backbone with a feature pyramid."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_spm.backend import resize_bilinear
from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.data.batching import ImageBatching
from keras_spm.heads.semantic_fpn import SemanticFPN
from keras_spm.layers.image_normalization import IMAGENET_MEAN, IMAGENET_STD
from keras_spm.layers.resizing import ResizeLike
from keras_spm.metrics.segmentation import MeanIoU, PixelAccuracy
from keras_spm.tasks.dense_task import DenseTask, checked_batching
from keras_spm.tasks.graph import connect_head, data_format_of
from keras_spm.types import PathLike
from keras_spm.visualize import class_colors, plot_segmentations


class SemanticSegmenter(DenseTask):
    """Raw images in, class logits for every pixel out.

    Images are (batch, height, width, 3) with pixels in [0, 255], normalized inside the model.
    The output is (batch, height, width, num_classes) in float32, upsampled bilinearly from
    the decoder's output. Targets are integer segmentation maps, (batch, height, width).

    Args:
        backbone: a backbone of this package, or another functional model with
            `pyramid_outputs` of strides 4 to 32, such as KerasHub's.
        num_classes: int.
        decoder: layer from {"P2": map, …} to logits of any stride, (batch, rows, columns,
            num_classes); `keras_spm.heads.SemanticFPN()` by default.
        class_names: optional `num_classes` distinct strings, saved with the model.
        ignore_class: int, label of pixels that count neither in the loss nor in metrics;
            `None` if all count.
        mean, std: floats per channel, for pixels scaled to [0, 1].
        batching: optional `keras_spm.data.ImageBatching`, or a dict of its arguments: how
            `segment` collates images. By default images keep their size.
        **kwargs: `name` and `trainable`.

    Raises:
        ValueError: for invalid `class_names`, or a backbone without the decoder's levels.

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
    default_output = "predictions"

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        decoder: keras.layers.Layer | None = None,
        class_names: Sequence[str] | None = None,
        ignore_class: int | None = 255,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        batching: ImageBatching | dict | None = None,
        **kwargs: Any,
    ) -> None:
        decoder = decoder or SemanticFPN()

        # === Functional Model ===
        images, logits = connect_head(backbone, decoder, "decoder", num_classes, mean, std)
        if logits.shape[-1] != num_classes:
            raise ValueError(
                f"`decoder` must output {num_classes} channels, one per class. "
                f"Received: an output of shape {logits.shape}"
            )
        upsampling = ResizeLike(data_format_of(backbone), dtype="float32", name="upsampling")
        super().__init__(
            inputs=images,
            outputs=upsampling([logits, images]),
            backbone=backbone,
            config={
                "num_classes": num_classes,
                "decoder": decoder,
                "class_names": class_names,
                "ignore_class": ignore_class,
                "mean": tuple(mean),
                "std": tuple(std),
                "batching": checked_batching(batching),
            },
            **kwargs,
        )
        self.compile()

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

    def segment(self, images: Sequence, batch_size: int = 8) -> list[np.ndarray]:
        """Predicts the class of every pixel, for images of any size.

        Args:
            images: paths, `PIL.Image`s or (height, width, 3) arrays with pixels in [0, 255].
            batch_size: int.

        Returns:
            List of (height, width) arrays of classes, each of its image's own size.

        Raises:
            FileNotFoundError, ValueError: for a missing file or one that is not an image.
        """
        return [
            _segmentation_map(logits, geometry)
            for outputs, geometries in self.batches(images, batch_size)
            for logits, geometry in zip(outputs, geometries, strict=True)
        ]

    def predict_images(self, images: Sequence, batch_size: int = 8) -> list[np.ndarray]:
        return self.segment(images, batch_size)

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
            _write_segmentation_map(prediction, len(names), output)
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
        plot_segmentations(images, targets, predictions, self.display_names, path)

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


def _write_segmentation_map(segmentation_map, num_classes, path):
    from PIL import Image

    picture = Image.fromarray(segmentation_map.astype("uint8"))
    picture.putpalette(class_colors(num_classes).ravel().tolist())
    picture.save(path)


def _segmentation_map(logits, geometry):
    rows, columns = geometry.resized
    logits = logits[:rows, :columns]
    if geometry.resized != geometry.original:
        (logits,) = ops.convert_to_numpy(resize_bilinear(logits[None], geometry.original))
    return np.argmax(logits, axis=-1)
