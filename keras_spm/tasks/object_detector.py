"""Object detection on any backbone with a feature pyramid."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops
from keras.utils import bounding_boxes

from keras_spm.arguments import check_integer
from keras_spm.backend import filled_in_step, scale_for_replicas, state_scope
from keras_spm.callbacks import CocoEvaluation
from keras_spm.data.batching import ImageBatching, ImageGeometry
from keras_spm.data.box_formats import BOX_FORMATS
from keras_spm.data.first_batch import FirstBatch
from keras_spm.heads.retinanet import RetinaNet
from keras_spm.metrics import coco_average_precision
from keras_spm.registry import lookup
from keras_spm.tasks.checks import (
    as_images,
    check_backbone,
    check_detection_targets,
    check_image_weights,
    make_batching,
)
from keras_spm.tasks.dense_task import DenseTask
from keras_spm.tasks.evaluation import Evaluation
from keras_spm.tasks.graph import channels_of, connect_head, default_statistics
from keras_spm.tasks.inference import Views, detections_of_images, merge_detections, with_score
from keras_spm.tasks.prediction_formats import DETECTION_FORMATS, object_records
from keras_spm.types import PathLike, Tensor
from keras_spm.visualize import plot_detections

_DRAWN = ("boxes", "labels", "masks")  # Of targets.
_DRAWN_SCORE = 0.3  # Lowest score of the detections that are drawn.
_IOU_THRESHOLD = 0.5  # For detectors without their own.


class ObjectDetector(DenseTask):
    """Raw images in, boxes with classes and scores out.

    Images are (batch, height, width, channels) with pixels in [0, 255], normalized inside the
    model. Calling the model returns the raw outputs of the detector, which the loss needs.
    `predict` returns detections by descending score: a dict of `boxes` (batch, max_detections,
    4), `scores` and `labels` (batch, max_detections), padded with 0, 0 and -1.

    Targets are a dict of `boxes` (batch, objects, 4) in pixels of the batch and `labels`
    (batch, objects), ints, -1 for padding. Optional, as from `DetectionBatching`: `crowd`
    (batch, objects), true for groups, which are not trained on; `areas` (batch, objects),
    `scale` and `size` (batch, 2), to compute metrics at the images' own size.

    Args:
        backbone: a backbone of this package, or another functional model with
            `pyramid_outputs` of strides 8 to 32, such as KerasHub's.
        num_classes: int, without background.
        detector: head with `compute_losses` and `decode`, by default `keras_spm.heads.RetinaNet()`.
        class_names: optional `num_classes` distinct strings, saved with the model.
        bounding_box_format: of boxes in targets and in the outputs of `predict`, as in
            `keras.utils.bounding_boxes`; in pixels.
        mean, std, batching: as in `SemanticSegmenter`.
        **kwargs: `name` and `trainable`.

    Raises:
        ValueError: for an argument that is not one of these.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ObjectDetector(backbone, num_classes=2, class_names=["cat", "dog"])
    >>> images = np.random.randint(0, 256, (2, 64, 64, 3), dtype="uint8")
    >>> boxes = np.array([[[4, 8, 40, 60]], [[0, 0, 9, 9]]], "float32")
    >>> targets = {"boxes": boxes, "labels": np.array([[0], [1]])}
    >>> history = model.fit(images, targets, verbose=0)
    >>> detections = model.detect([images[0], images[1][:40]])
    """

    pipeline_tag = "object-detection"
    head_argument = "detector"
    prediction_formats = DETECTION_FORMATS
    default_metrics: ClassVar[tuple[Callable, ...]] = (coco_average_precision,)
    # How recipes and commands measure the task; see `evaluate_on`.
    evaluation_callback: ClassVar[type] = CocoEvaluation
    evaluation_class: ClassVar[type] = Evaluation

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        detector: keras.layers.Layer | None = None,
        class_names: Sequence[str] | None = None,
        bounding_box_format: str = "xyxy",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batching: ImageBatching | dict | None = None,
        **kwargs: Any,
    ) -> None:
        check_backbone(backbone)
        num_classes = check_integer("num_classes", num_classes)
        lookup("bounding_box_format", bounding_box_format, BOX_FORMATS)
        detector = self.check_detector(detector)
        mean, std = default_statistics(mean, std, backbone)
        batching = make_batching(batching, backbone)

        # === Functional Model ===
        images, outputs = connect_head(backbone, detector, "detector", num_classes, mean, std)
        super().__init__(
            inputs=images,
            outputs=outputs,
            backbone=backbone,
            config={
                "num_classes": num_classes,
                "detector": detector,
                "class_names": class_names,
                "bounding_box_format": bounding_box_format,
                "mean": tuple(mean),
                "std": tuple(std),
                "batching": batching,
            },
            **kwargs,
        )
        self.loss_trackers = [keras.metrics.Mean(name=name) for name in detector.loss_names]
        self.compile()

    @staticmethod
    def check_detector(detector: keras.layers.Layer | None) -> keras.layers.Layer:
        """Returns the detector, by default `RetinaNet()`."""
        return detector or RetinaNet()

    def compile(self, optimizer: Any = "auto", metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training; the loss is the sum of the detector's losses.

        Args:
            optimizer: by default AdamW, learning rate 1e-4, weight decay 1e-4 on kernels.
            metrics: functions like `keras_spm.metrics.coco_average_precision`, the default if
                pycocotools is installed; `evaluate` adds their results to the losses.
            **kwargs: as in `keras.Model.compile`, without `loss`.
        """
        if metrics == "auto":
            metrics = self.default_metrics if importlib.util.find_spec("pycocotools") else ()
        self._evaluation = self.evaluation_class(self, metrics)
        super().compile(optimizer=optimizer, **kwargs)
        self._compile_again.keywords["metrics"] = metrics

    def get_compile_config(self) -> dict[str, Any]:
        metrics = keras.saving.serialize_keras_object(self._evaluation.metrics)
        return {**super().get_compile_config(), "metrics": metrics}

    def compute_loss(
        self,
        x: Tensor = None,
        y: dict[str, Tensor] | None = None,
        y_pred: Any = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        images = ops.shape(y["labels"])[0]
        targets, sample_weight = filled_in_step((y, sample_weight))
        losses = self.image_losses(targets, y_pred, sample_weight)
        sums = [ops.sum(losses[tracker.name]) for tracker in self.loss_trackers]
        for tracker, value in zip(self.loss_trackers, sums, strict=True):
            tracker.update_state(value, sample_weight=images)
        return scale_for_replicas(sum([*sums, *self.losses]))

    def _without_filler(self, outputs, rows):
        return outputs  # Anchors have no rows.

    def check_targets(self, images: np.ndarray, targets: Any) -> None:
        missing = [name for name in ("boxes", "labels") if name not in targets]
        if not isinstance(targets, dict) or missing:
            received = list(targets) if isinstance(targets, dict) else type(targets).__name__
            raise ValueError(
                f"Targets must be a dict with `boxes` and `labels`. Received: {received}"
            )
        boxes = ops.convert_to_numpy(self.to_xyxy(targets["boxes"].astype("float32")))
        check_detection_targets(targets, boxes, self.image_size(images), self.num_classes)

    def image_losses(
        self, targets: dict[str, Tensor], outputs: Any, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns {name: (batch,)}, the contributions of the images to the batch's losses.

        Raises:
            ValueError: if `sample_weight` is not (batch,).
        """
        if isinstance(sample_weight, dict):  # Keras copies the weights for each target.
            sample_weight = sample_weight["labels"]
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, "float32")
            check_image_weights(sample_weight.shape)
        targets = {**targets, "boxes": self.to_xyxy(ops.cast(targets["boxes"], "float32"))}
        return self.detector.compute_losses(outputs, targets, sample_weight)

    # === Detections ===

    def predict_part(self, *args: Any) -> Any:
        # On JAX: (state, data) → (outputs, part of the state); elsewhere: data → outputs.
        *state, data = args
        outputs = super().predict_part(*args)
        images = data[0] if isinstance(data, (tuple, list)) else data
        if not state:
            return self.decode_outputs(outputs, images)
        outputs, updated = outputs
        # A two-stage detector has layers that decode.
        with state_scope(self, *state):
            return self.decode_outputs(outputs, images), updated

    def decode_outputs(self, outputs: Any, images: Tensor) -> dict[str, Tensor]:
        """Returns the detections in raw outputs of the model for a batch of images."""
        detections = self.detector.decode(outputs, self.image_size(images))
        boxes = bounding_boxes.convert_format(detections["boxes"], "xyxy", self.bounding_box_format)
        return {**detections, "boxes": boxes}

    def to_xyxy(self, boxes: Tensor) -> Tensor:
        """Converts boxes from `bounding_box_format` to xyxy."""
        return bounding_boxes.convert_format(boxes, self.bounding_box_format, "xyxy")

    def detect(
        self,
        images: Any,
        batch_size: int = 8,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        tta: str | None = None,
    ) -> dict[str, np.ndarray] | list[dict[str, np.ndarray]]:
        """Detects objects in images of any size.

        Args:
            images, batch_size, tile, overlap: as in `SemanticSegmenter.segment`. The detections
                in windows are merged, see `keras_spm.tasks.inference.merge_detections`. An
                object is seen whole by a window if it is smaller than their overlap.
            tta: `"flip"` merges the detections in images and flipped images.

        Returns:
            For each image a dict, by descending score: `boxes` (found, 4) float32, xyxy in
            pixels of the image, `scores` (found,) float32, `labels` (found,) int64. For a
            single image that dict alone. The detector's `max_detections` holds for each image,
            or for each window.

        Raises:
            FileNotFoundError, ValueError: for a missing file or one that is not an image, and
                for an argument out of range.
        """
        views = Views(tile, overlap, tta, channels_of(self.backbone))
        images, single = as_images(images, batch_size, channels_of(self.backbone))
        threshold = getattr(self.detector, "iou_threshold", _IOU_THRESHOLD)
        most = getattr(self.detector, "max_detections", None) if tile is None else None
        results = self.predict_views(images, views, batch_size)
        detections = [merge_detections(each, threshold, most) for each in results]
        return detections[0] if single else detections

    def to_original_size(
        self, outputs: dict[str, np.ndarray], geometries: list[ImageGeometry]
    ) -> list[dict[str, np.ndarray]]:
        scales, sizes = zip(*((each.scale, each.original) for each in geometries), strict=True)
        return self.to_image_pixels(outputs, scales, sizes)

    def to_image_pixels(
        self,
        outputs: dict[str, np.ndarray],
        scales: Sequence[tuple[float, float]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, np.ndarray]]:
        """Converts outputs of `predict` to the detections of `detect`.

        Args:
            outputs: dict of arrays, from `predict`.
            scales: (vertical, horizontal) scale of each image in the batch.
            sizes: (height, width) of each image, to which boxes are clipped.
        """
        boxes = ops.convert_to_numpy(self.to_xyxy(outputs["boxes"]))
        return detections_of_images({**outputs, "boxes": boxes}, scales, sizes)

    def predict_images(
        self, images: Sequence, batch_size: int = 8, **options: Any
    ) -> list[dict[str, np.ndarray]]:
        """Returns the detections in each image; the options are those of `detect`."""
        return self.detect(list(images), batch_size, **options)

    def select(self, prediction: dict, top: int, score_threshold: float) -> dict[str, np.ndarray]:
        return with_score(prediction, score_threshold)

    def predict_record(
        self,
        prediction: dict[str, np.ndarray],
        image: Any,
        top: int = 5,
        score_threshold: float = _DRAWN_SCORE,
        output: PathLike | None = None,
    ) -> tuple[dict, str]:
        names = self.display_names
        detections = with_score(prediction, score_threshold)
        if output is not None:
            plot_detections([image], None, [detections], names, output)
        objects = object_records(detections, names)
        texts = ["{name} {score:.2f} {box}".format(**each) for each in objects]
        return {"objects": objects}, "  ".join(texts) or "no objects"

    def draw(
        self,
        images: Sequence,
        path: PathLike,
        targets: Any = None,
        predictions: Sequence[dict] | None = None,
    ) -> None:
        """Draws targets beside the predictions with a score of at least 0.3."""
        if isinstance(targets, dict):
            targets = [
                {name: targets[name][index][labels >= 0] for name in _DRAWN if name in targets}
                for index, labels in enumerate(targets["labels"])
            ]
        plot_detections(
            images,
            targets and targets[: len(images)],
            predictions and [with_score(each, _DRAWN_SCORE) for each in predictions],
            self.display_names,
            path,
        )

    def evaluate_on(
        self,
        examples: Sequence[dict],
        class_names: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> dict[str, float]:
        """Returns COCO's metrics, and `AP/class` for each class."""
        self.check_class_order(class_names)
        arguments = {"batch_size": batch_size, "class_names": class_names or self.display_names}
        return self.evaluation_callback(examples, **arguments).measure(self)

    # === Evaluation ===

    def evaluate(
        self,
        x: Any = None,
        y: dict[str, Tensor] | None = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Tensor | None = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> dict[str, float] | list[float]:
        """Returns `loss`, the detector's losses and the metrics, as `keras.Model.evaluate`."""
        arguments = (batch_size, verbose, sample_weight, steps, callbacks)
        with self._exclusive(), FirstBatch(self._check_batch) as first:
            logs = self._evaluation(first.of(x, y), y, *arguments)
        return logs if return_dict else list(logs.values())
