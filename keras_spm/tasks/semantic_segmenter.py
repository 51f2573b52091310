"""Semantic segmentation on any backbone with a feature pyramid."""

import keras
import numpy as np
from keras import ops

from keras_spm.backend.resizing import resize_bilinear
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

    pipeline_tag = "image-segmentation"

    def class_predictors(self):
        return [self.get_layer("head").classifier]

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


def _labels(logits, geometry):
    """The likeliest classes at the image's own size."""
    rows, columns = geometry.resized
    logits = logits[:rows, :columns]
    if geometry.resized != geometry.original:
        (logits,) = ops.convert_to_numpy(resize_bilinear(logits[None], geometry.original))
    return np.argmax(logits, axis=-1)
