"""Average precision as the COCO benchmark defines it, by its own code."""

import contextlib
import io
import typing

import keras
import numpy as np

# In the order of pycocotools' summary.
METRIC_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


class Annotations(typing.NamedTuple):
    """What is in an image.

    Attributes:
        boxes: (objects, 4) floats, left, top, right and bottom, in pixels of the image.
        labels: (objects,) ints, classes from 0 on.
        crowd: (objects,) bools; a crowd is a group under one box, which counts neither as
            found nor as missed, and excuses all detections in it.
        areas: (objects,) floats, in pixels: what decides small, medium and large. COCO
            gives the masks' areas.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@keras.saving.register_keras_serializable("keras_spm")
def coco_average_precision(annotations, detections, class_names=None):
    """Measures detections of boxes with pycocotools, and says nothing meanwhile.

    Args:
        annotations: sequence, for each image an object with the attributes of
            `Annotations`.
        detections: sequence, for the same images, of objects with the attributes `boxes`
            (found, 4), `scores` (found,) and `labels` (found,), in the same units. Per
            class and image the 100 best count.
        class_names: optional strings, one per class: adds each class's own precision.

    Returns:
        {name: float}, each from 0 to 1, or -1 where no object is to be found:

        - `"AP"`, average precision over the overlaps 0.5, 0.55, …, 0.95, mean over the
          classes; `"AP50"` and `"AP75"` at one overlap; `"AP_small"`, `"AP_medium"` and
          `"AP_large"` of objects up to 32 * 32 pixels, up to 96 * 96, and above.
        - `"AR_1"`, `"AR_10"` and `"AR_100"`, average recall with so many detections per
          class and image; `"AR_small"`, `"AR_medium"` and `"AR_large"`.
        - `"AP/<class name>"` of each class, where `class_names` are given.

    Raises:
        ImportError: without pycocotools.
        ValueError: where there is not one of `detections` for each of `annotations`, or a
            label has no class name.

    Example:

    >>> truth = Annotations([[10, 10, 50, 60]], [0], [False], [2000])
    >>> found = types.SimpleNamespace(boxes=[[10, 12, 50, 60]], scores=[0.9], labels=[0])
    >>> round(coco_average_precision([truth], [found])["AP"], 2)
    1.0

    Reference:
        https://cocodataset.org/#detection-eval
    """
    if len(annotations) != len(detections):
        raise ValueError(
            "`detections` must be as many as `annotations`, one per image. Received: "
            f"{len(detections)} detections, {len(annotations)} annotations"
        )
    truth = [_truth_records(image) for image in annotations]
    found = [_detection_records(image) for image in detections]
    # A class without objects has no precision, so it need not be looked at.
    labels = sorted({record["category_id"] for image in truth for record in image})
    if class_names is not None and labels and not 0 <= labels[0] <= labels[-1] < len(class_names):
        raise ValueError(
            f"`class_names` must name all labels, which go from {labels[0]} to {labels[-1]}. "
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
        _left_top_width_height(image.boxes).tolist(),
        np.asarray(image.labels).tolist(),
        np.asarray(image.crowd).tolist(),
        np.asarray(image.areas).tolist(),
        strict=True,
    )
    return [
        {"bbox": box, "category_id": label, "iscrowd": int(crowd), "area": area}
        for box, label, crowd, area in columns
    ]


def _detection_records(image):
    boxes = _left_top_width_height(image.boxes)
    columns = zip(
        boxes.tolist(),
        np.asarray(image.labels).tolist(),
        np.asarray(image.scores).tolist(),
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
    """Returns all images' records as one list, each with its image and a number."""
    annotations = [
        {**record, "image_id": image} for image, each in enumerate(records) for record in each
    ]
    # From 1 on: pycocotools takes a match with number 0 for no match.
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return annotations


def _class_precisions(evaluation):
    """Yields each class's average precision, as pycocotools takes the mean for all."""
    # (overlaps, recalls, classes, sizes, limits of detections): all sizes, 100 detections.
    precisions = evaluation.eval["precision"][:, :, :, 0, -1]
    for one_class in np.moveaxis(precisions, 2, 0):
        measured = one_class[one_class > -1]
        yield float(measured.mean()) if measured.size else -1.0
