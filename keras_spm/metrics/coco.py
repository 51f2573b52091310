"""COCO average precision, computed by pycocotools."""

import contextlib
import io
import itertools
from collections.abc import Sequence

import keras
import numpy as np

from keras_spm.types import Example

# In the order of pycocotools' summary.
METRIC_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
MASK_METRIC_NAMES = tuple(f"mask_{name}" for name in METRIC_NAMES)


@keras.saving.register_keras_serializable("keras_spm")
def coco_average_precision(
    annotations: Sequence[Example],
    detections: Sequence[Example],
    class_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Evaluates detected boxes with pycocotools, without its output.

    Args:
        annotations: one dict per image: `boxes` (objects, 4), xyxy in pixels; `labels`
            (objects,), ints from 0; `crowd` (objects,) bool, true for groups, in which
            detections are ignored; `areas` (objects,) in pixels, which decide between small,
            medium and large (COCO uses the areas of the masks).
        detections: one dict per image: `boxes` (found, 4), `scores` (found,) and `labels`
            (found,). The 100 highest scores per class and image count.
        class_names: optional, one per class; adds `"AP/<class name>"` of each class.

    Returns:
        {name: float}, COCO's twelve metrics (`METRIC_NAMES`), each from 0 to 1, or -1 if there
        are no objects. `"AP"` is the mean over classes and the IoU thresholds 0.5, 0.55, …,
        0.95; small objects have up to 32 * 32 pixels, medium ones up to 96 * 96.

    Raises:
        ImportError: if pycocotools is not installed.
        ValueError: for different numbers of images, or a label without a class name.

    Example:

    >>> image = {"boxes": [[10, 10, 50, 60]], "labels": [0], "crowd": [False], "areas": [2000]}
    >>> found = {"boxes": [[10, 12, 50, 60]], "scores": [0.9], "labels": [0]}
    >>> round(coco_average_precision([image], [found])["AP"], 2)
    1.0

    Reference:
        https://cocodataset.org/#detection-eval
    """
    return _average_precision(annotations, detections, class_names, "bbox", _box_records)


@keras.saving.register_keras_serializable("keras_spm")
def coco_mask_average_precision(
    annotations: Sequence[Example],
    detections: Sequence[Example],
    class_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Evaluates detected masks with pycocotools, as `coco_average_precision` does boxes.

    Args:
        annotations: one dict per image, as there, with `masks` (objects, height, width), or
            their run-length encoding, see `encode_masks`.
        detections: likewise.
        class_names: optional, one per class; adds `"mask_AP/<class name>"` of each class.

    Returns:
        {name: float}, see `MASK_METRIC_NAMES`.

    Raises:
        ImportError, ValueError: as `coco_average_precision`.
    """
    results = _average_precision(annotations, detections, class_names, "segm", _mask_records)
    return {f"mask_{name}": value for name, value in results.items()}


def encode_masks(masks: np.ndarray) -> list[dict]:
    """Returns masks (objects, height, width) in pycocotools' run-length encoding.

    A list of dicts of `size`, [height, width], and `counts`, bytes.
    """
    _, _, functions = _pycocotools()
    columns = np.asfortranarray(np.moveaxis(np.asarray(masks, "uint8"), 0, -1))
    return functions.encode(columns) if len(masks) else []


def _average_precision(annotations, detections, class_names, iou_type, to_records):
    if len(annotations) != len(detections):
        raise ValueError(
            "`detections` and `annotations` must have one entry per image. Received: "
            f"{len(detections)} detections, {len(annotations)} annotations"
        )
    truth = [
        to_records(image, iscrowd=np.asarray(image["crowd"]).astype(int), area=image["areas"])
        for image in annotations
    ]
    found = [
        to_records(image, score=image["scores"], iscrowd=np.zeros(len(image["scores"]), int))
        for image in detections
    ]
    # Classes without objects have no precision.
    labels = sorted({record["category_id"] for image in truth for record in image})
    if class_names is not None and labels and not 0 <= labels[0] <= labels[-1] < len(class_names):
        raise ValueError(
            f"`class_names` must have a name for all labels, from {labels[0]} to {labels[-1]}. "
            f"Received {len(class_names)}: {list(class_names)}"
        )
    evaluation = _evaluation(truth, found, labels, iou_type)
    results = dict(zip(METRIC_NAMES, map(float, evaluation.stats), strict=True))
    if class_names is not None:
        by_label = dict(zip(labels, _class_precisions(evaluation), strict=True))
        for label, name in enumerate(class_names):
            results[f"AP/{name}"] = by_label.get(label, -1.0)
    return results


def _box_records(image, **columns):
    """Returns pycocotools' records of the boxes of an image; areas default to those of boxes."""
    boxes = np.reshape(np.asarray(image["boxes"], "float64"), (-1, 4))
    sides = boxes[:, 2:] - boxes[:, :2]
    columns = {"area": sides.prod(axis=1), **columns}
    return _records(image, bbox=np.concatenate([boxes[:, :2], sides], axis=1), **columns)


def _mask_records(image, **columns):
    """Returns pycocotools' records of the masks of an image; areas default to those of masks."""
    masks = image["masks"]
    if not len(masks) or not isinstance(masks[0], dict):
        masks = encode_masks(masks)
    _, _, functions = _pycocotools()
    columns = {"area": functions.area(masks) if masks else [], **columns}
    return _records(image, segmentation=masks, **columns)


def _records(image, **columns):
    columns = {"category_id": image["labels"], **columns}
    rows = zip(*(_to_list(column) for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _to_list(column):
    return column if isinstance(column, list) else np.asarray(column).tolist()


def _pycocotools():
    """Returns its index of a data set, its evaluation, and its functions of masks."""
    try:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "COCO average precision needs pycocotools: run `pip install 'keras-spm[coco]'`."
        ) from error
    return COCO, COCOeval, mask


def _evaluation(truth, found, labels, iou_type):
    """Returns a finished `COCOeval`."""
    COCO, COCOeval, _ = _pycocotools()  # noqa: N806

    def index(records):
        coco, ids = COCO(), itertools.count(1)
        coco.dataset = {
            # pycocotools needs sizes for polygons alone.
            "images": [{"id": image, "height": 0, "width": 0} for image in range(len(records))],
            "categories": [{"id": label} for label in labels],
            # Ids from 1: pycocotools treats a match with id 0 as no match.
            "annotations": [
                {**record, "image_id": image, "id": next(ids)}
                for image, each in enumerate(records)
                for record in each
            ],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(truth), index(found), iouType=iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _class_precisions(evaluation):
    """Yields the average precision of each class, computed as pycocotools does for all."""
    # (thresholds, recalls, classes, areas, max detections): all areas, 100 detections.
    precisions = evaluation.eval["precision"][:, :, :, 0, -1]
    for one_class in np.moveaxis(precisions, 2, 0):
        measured = one_class[one_class > -1]
        yield float(measured.mean()) if measured.size else -1.0
