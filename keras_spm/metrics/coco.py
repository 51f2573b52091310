"""COCO average precision, computed by pycocotools."""

import contextlib
import io
from collections.abc import Sequence

import keras
import numpy as np

from keras_spm.types import Example

# In the order of pycocotools' summary.
METRIC_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


@keras.saving.register_keras_serializable("keras_spm")
def coco_average_precision(
    annotations: Sequence[Example],
    detections: Sequence[Example],
    class_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Evaluates detected boxes with pycocotools, without its output.

    Args:
        annotations: one dict per image: `boxes` (objects, 4), left, top, right and bottom in
            pixels; `labels` (objects,), ints from 0; `crowd` (objects,) bool, where a crowd is
            a group in one box that counts neither as found nor as missed, and detections in it
            are ignored; `areas` (objects,) in pixels, which decide between small, medium and
            large (COCO uses the areas of the masks).
        detections: one dict per image: `boxes` (found, 4), `scores` (found,) and `labels`
            (found,). The 100 highest scores per class and image count.
        class_names: optional, one per class; adds the average precision of each class.

    Returns:
        {name: float}, each from 0 to 1, or -1 if there are no objects:

        - `"AP"`, average precision over the IoU thresholds 0.5, 0.55, …, 0.95, mean over the
          classes; `"AP50"` and `"AP75"` at one threshold; `"AP_small"`, `"AP_medium"` and
          `"AP_large"` for objects up to 32 * 32 pixels, up to 96 * 96, and above.
        - `"AR_1"`, `"AR_10"` and `"AR_100"`, average recall with at most so many detections
          per class and image; `"AR_small"`, `"AR_medium"` and `"AR_large"`.
        - `"AP/<class name>"` of each class, if `class_names` are given.

    Raises:
        ImportError: if pycocotools is not installed.
        ValueError: if `annotations` and `detections` differ in length, or a label has no class
            name.

    Example:

    >>> image = {"boxes": [[10, 10, 50, 60]], "labels": [0], "crowd": [False], "areas": [2000]}
    >>> found = {"boxes": [[10, 12, 50, 60]], "scores": [0.9], "labels": [0]}
    >>> round(coco_average_precision([image], [found])["AP"], 2)
    1.0

    Reference:
        https://cocodataset.org/#detection-eval
    """
    if len(annotations) != len(detections):
        raise ValueError(
            "`detections` and `annotations` must have one entry per image. Received: "
            f"{len(detections)} detections, {len(annotations)} annotations"
        )
    truth = [_truth_records(image) for image in annotations]
    found = [_detection_records(image) for image in detections]
    # Classes without objects have no precision.
    labels = sorted({record["category_id"] for image in truth for record in image})
    if class_names is not None and labels and not 0 <= labels[0] <= labels[-1] < len(class_names):
        raise ValueError(
            f"`class_names` must have a name for all labels, from {labels[0]} to {labels[-1]}. "
            f"Received {len(class_names)}: {list(class_names)}"
        )
    evaluation = _evaluation(truth, found, labels)
    results = dict(zip(METRIC_NAMES, map(float, evaluation.stats), strict=True))
    if class_names is not None:
        by_label = dict(zip(labels, _class_precisions(evaluation), strict=True))
        for label, name in enumerate(class_names):
            results[f"AP/{name}"] = by_label.get(label, -1.0)
    return results


def _truth_records(image):
    columns = zip(
        _left_top_width_height(image["boxes"]).tolist(),
        np.asarray(image["labels"]).tolist(),
        np.asarray(image["crowd"]).tolist(),
        np.asarray(image["areas"]).tolist(),
        strict=True,
    )
    return [
        {"bbox": box, "category_id": label, "iscrowd": int(crowd), "area": area}
        for box, label, crowd, area in columns
    ]


def _detection_records(image):
    boxes = _left_top_width_height(image["boxes"])
    columns = zip(
        boxes.tolist(),
        np.asarray(image["labels"]).tolist(),
        np.asarray(image["scores"]).tolist(),
        (boxes[:, 2] * boxes[:, 3]).tolist(),
        strict=True,
    )
    return [
        {"bbox": box, "category_id": label, "score": score, "iscrowd": 0, "area": area}
        for box, label, score, area in columns
    ]


def _left_top_width_height(boxes):
    boxes = np.reshape(np.asarray(boxes, "float64"), (-1, 4))
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _evaluation(truth, found, labels):
    """Returns a finished `COCOeval`."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "COCO average precision needs pycocotools: run `pip install 'keras-spm[coco]'`."
        ) from error

    def index(records):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(records))],
            "categories": [{"id": label} for label in labels],
            "annotations": _numbered(records),
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(truth), index(found), iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _numbered(records):
    """Returns the records of all images as one list, with image ids and annotation ids."""
    annotations = [
        {**record, "image_id": image} for image, each in enumerate(records) for record in each
    ]
    # From 1: pycocotools treats a match with id 0 as no match.
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return annotations


def _class_precisions(evaluation):
    """Yields the average precision of each class, computed as pycocotools does for all."""
    # (thresholds, recalls, classes, areas, max detections): all areas, 100 detections.
    precisions = evaluation.eval["precision"][:, :, :, 0, -1]
    for one_class in np.moveaxis(precisions, 2, 0):
        measured = one_class[one_class > -1]
        yield float(measured.mean()) if measured.size else -1.0
