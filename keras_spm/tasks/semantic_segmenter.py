"""Semantic segmentation on any backbone with a feature pyramid."""

import collections.abc
import pathlib
import typing

import keras
import numpy as np
from keras import ops

from keras_spm.backend.resizing import resize_bilinear
from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.heads.feature_pyramid import FeaturePyramid
from keras_spm.heads.semantic_fpn import SemanticFPNHead
from keras_spm.layers.image_normalization import IMAGENET_MEAN
from keras_spm.layers.image_normalization import IMAGENET_STD
from keras_spm.layers.resizing import ResizeLike
from keras_spm.metrics.segmentation import MeanIoU
from keras_spm.metrics.segmentation import PixelAccuracy
from keras_spm.optimizers import AdamW
from keras_spm.tasks.dense_task import DenseTask
from keras_spm.tasks.dense_task import data_format_of
from keras_spm.tasks.dense_task import pyramid_inputs
from keras_spm.tasks.image_task import check_class_order
from keras_spm.tasks.image_task import display_names
from keras_spm.visualize import class_colors
from keras_spm.visualize import plot_segmentations


@keras.saving.register_keras_serializable("keras_spm")
class SemanticSegmenter(DenseTask):
    """Raw images in, class logits for every pixel out: Semantic FPN.

    Images are (batch, height, width, 3) with pixels in [0, 255], of any dtype; they are
    normalized inside the model, in float32. The result is (batch, height, width,
    num_classes) in float32, enlarged bilinearly from stride 4. The model is compiled with
    defaults that suit fine-tuning on integer label maps, (batch, height, width).

    Args:
        backbone: a backbone of this package, or another functional model with
            `pyramid_outputs` of strides 4 to 32, such as KerasHub's.
        num_classes: int.
        class_names: optional `num_classes` distinct strings, kept with the model.
        ignore_class: int, label of pixels that count neither in loss nor in metrics;
            `None` where all count.
        pyramid_channels: int, of the feature pyramid.
        head_channels: int, of the head's convolutions.
        dropout: float, rate before the last layer.
        mean: three floats, for pixels scaled to [0, 1].
        std: three floats, likewise.
        batching: optional `keras_spm.data.ImageBatching`, or a dict of its arguments: how
            `segment` brings images into a batch. By default at their own size.
        fused: bool, whether the head's batch normalizations are folded away, see
            `keras_spm.fuse`.

    Raises:
        ValueError: where `class_names` are not distinct or not as many as classes, and for
            a backbone without maps of those strides.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.SemanticSegmenter(backbone, num_classes=3)
    >>> images = np.random.randint(0, 256, (2, 64, 64, 3), dtype="uint8")
    >>> history = model.fit(images, np.random.randint(0, 3, (2, 64, 64)), verbose=0)
    >>> model.segment([images[0], images[1][:40]])[1].shape
    (40, 64)

    Reference:
        Kirillov et al., Panoptic Feature Pyramid Networks, arXiv 1901.02446.
    """

    levels = ("P2", "P3", "P4", "P5")
    default_output = "predictions"

    def __init__(
        self,
        backbone,
        num_classes,
        class_names=None,
        ignore_class=255,
        pyramid_channels=256,
        head_channels=128,
        dropout=0.1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        batching=None,
        fused=False,
        **kwargs,
    ):
        dtype = backbone.dtype_policy

        # === Layers ===
        pyramid = FeaturePyramid(pyramid_channels, dtype=dtype, name="feature_pyramid")
        head = SemanticFPNHead(num_classes, head_channels, dropout, fused, dtype=dtype, name="head")
        enlarging = ResizeLike(data_format_of(backbone), dtype="float32", name="enlarging")

        # === Functional Model ===
        images, maps = pyramid_inputs(backbone, self.levels, mean, std)
        super().__init__(
            inputs=images,
            outputs=enlarging([head(pyramid(maps)), images]),
            backbone=backbone,
            config={
                "num_classes": num_classes,
                "class_names": class_names,
                "ignore_class": ignore_class,
                "pyramid_channels": pyramid_channels,
                "head_channels": head_channels,
                "dropout": dropout,
                "mean": tuple(mean),
                "std": tuple(std),
                "batching": batching,
                "fused": fused,
            },
            **kwargs,
        )
        self.compile()

    def compile(self, optimizer="auto", loss="auto", metrics="auto", **kwargs):
        """Configures training; `"auto"` stands for what suits fine-tuning.

        Args:
            optimizer: by default AdamW, learning rate 1e-4, weight decay 1e-4 on kernels.
            loss: by default cross-entropy, averaged over the pixels that count.
            metrics: by default mean intersection over union and pixel accuracy.
            **kwargs: as `keras.Model.compile` takes them.
        """
        if optimizer == "auto":
            optimizer = AdamW(learning_rate=1e-4, weight_decay=1e-4)
        if loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=self.ignore_class
            )
        if metrics == "auto":
            metrics = [
                MeanIoU(self.num_classes, self.ignore_class),
                PixelAccuracy(self.ignore_class),
            ]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def segment(self, images, batch_size=8):
        """Labels every pixel of images of any size.

        Args:
            images: sequence of paths of image files, `PIL.Image`s, or arrays (height,
                width, 3) with pixels in [0, 255].
            batch_size: int.

        Returns:
            List of (height, width) arrays with the class of each pixel, each of its
            image's own size.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image.
        """
        maps = []
        for logits, geometries in self.predictions(images, batch_size):
            maps += [_labels(*each) for each in zip(logits, geometries, strict=True)]
        return maps

    def predict_images(
        self, images: collections.abc.Sequence, batch_size: int = 8
    ) -> list[np.ndarray]:
        """Returns the segmentation map of each image, as `segment`."""
        return self.segment(images, batch_size)

    def predict_record(
        self,
        prediction: np.ndarray,
        image: typing.Any,
        top: int = 5,
        score_threshold: float = 0.3,
        output: pathlib.Path | None = None,
    ) -> tuple[dict[str, typing.Any], str]:
        """Describes the areas of the largest classes. The picture is the segmentation map."""
        names = display_names(self)
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
        images: collections.abc.Sequence,
        path: str | pathlib.Path,
        targets: typing.Any = None,
        predictions: collections.abc.Sequence | None = None,
    ) -> None:
        """Draws images, targets and predictions side by side."""
        if targets is not None:
            targets = [
                getattr(target, "segmentation_map", target) for target in targets[: len(images)]
            ]
        plot_segmentations(images, targets, predictions, display_names(self), path)

    def evaluate_on(
        self,
        examples: collections.abc.Sequence,
        class_names: collections.abc.Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> dict[str, float]:
        """Returns `mean_iou`, `pixel_accuracy`, and `iou/class` for each class."""
        check_class_order(self, class_names)
        evaluation = SegmentationEvaluation(examples, batch_size=batch_size)
        metrics = evaluation.measure(self)
        names = class_names or display_names(self)
        per_class = zip(names, evaluation.per_class.tolist(), strict=True)
        return {**metrics, **{f"iou/{name}": value for name, value in per_class}}


def _write_segmentation_map(segmentation_map, num_classes, path):
    """Writes a PNG with the classes as palette indices, in their colors."""
    from PIL import Image

    picture = Image.fromarray(segmentation_map.astype("uint8"))
    picture.putpalette(class_colors(num_classes).ravel().tolist())
    picture.save(path)


def _labels(logits, geometry):
    """The likeliest classes at the image's own size."""
    rows, columns = geometry.resized
    logits = logits[:rows, :columns]
    if geometry.resized != geometry.original:
        (logits,) = ops.convert_to_numpy(resize_bilinear(logits[None], geometry.original))
    return np.argmax(logits, axis=-1)
