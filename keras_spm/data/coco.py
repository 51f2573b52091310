"""Objects from a COCO file: JSON with boxes, and a folder of images."""

import collections
import functools
import json
import pathlib

from keras_spm.data.annotations import AnnotatedImages
from keras_spm.data.annotations import AnnotatedObject
from keras_spm.data.annotations import BadAnnotation
from keras_spm.data.annotations import ListedImage
from keras_spm.data.annotations import are_finite
from keras_spm.data.annotations import box_area
from keras_spm.data.annotations import visible_box

# The types of what must be there for the rest to be told apart.
_FIELDS = {
    "images": {"id": (int, str), "file_name": (str,), "height": (int,), "width": (int,)},
    "categories": {"id": (int,), "name": (str,)},
    "annotations": {"id": (int, str)},
}


class CocoDetection(AnnotatedImages):
    """Objects with boxes from a file in COCO's format: COCO itself, or your own data.

    A sequence of `DetectionExample`s whose images are paths, in the order of the file.

    Of an annotation, `bbox` is [left, top, width, height] in pixels; what passes the edge
    of the image is cut off. Without `iscrowd` it is no crowd, and without `area` it has its
    box's. A `segmentation` is checked, but not returned.

    These break rules: an unknown image or category, an id that came before, a field of the
    wrong type, a number that is not finite, a box without area or outside the image, an
    area that is not positive, a polygon of fewer than three points (pycocotools would read
    two points as a box) or with half a point, a mask of another size than its image, a
    missing image file. Note that an object that is dropped becomes background: look
    through `invalid_annotations` first. COCO's own `instances_train2017.json` has two boxes without
    area, and must be read with `invalid="drop"`.

    Args:
        annotations: path of the JSON file.
        images: path of the folder that its file names start from.
        invalid: `"raise"`, or `"drop"` to leave out what breaks a rule.

    Attributes:
        class_names: list of str, in the order of the categories' ids; labels are places
            in it.
        category_ids: list of int, the file's id for each label.
        invalid_annotations: {rule: [ids]}, what was left out: ids of annotations, and for
            `"missing image file"` of images.

    Raises:
        FileNotFoundError: where there is no such JSON file.
        ValueError: for a file that is no COCO file, naming the field; for annotations that
            break rules, counting them; when an example is asked for, for an image of
            another size than the file says, or that cannot be read.

    Example:

    >>> examples = keras_spm.data.CocoDetection("train.json", "images")
    >>> examples[0].boxes.shape
    (7, 4)
    """

    def __init__(self, annotations, images, invalid="raise"):
        contents = _contents(annotations)
        folder = pathlib.Path(images)
        listed = [
            ListedImage(folder / each["file_name"], each["id"], each["height"], each["width"])
            for each in contents["images"]
        ]
        categories = sorted(contents["categories"], key=lambda category: category["id"])
        self.class_names = [category["name"] for category in categories]
        self.category_ids = [category["id"] for category in categories]
        read = functools.partial(
            _read,
            images=listed,
            places={image.image_id: place for place, image in enumerate(listed)},
            labels={category_id: label for label, category_id in enumerate(self.category_ids)},
            earlier=set(),
        )
        pairs = ((each["id"], each) for each in contents["annotations"])
        super().__init__(annotations, listed, pairs, read, invalid)


def _contents(path):
    """Returns the file's lists, whose entries can be told apart."""
    try:
        contents = json.loads(pathlib.Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no COCO file: it is no JSON ({error}).") from error
    if not isinstance(contents, dict):
        raise _not_coco(path, "its contents", "an object", contents)
    for name, fields in _FIELDS.items():
        if not isinstance(contents.get(name), list):
            raise _not_coco(path, f"`{name}`", "a list", contents.get(name))
        for place, entry in enumerate(contents[name]):
            _check_entry(path, f"{name}[{place}]", entry, fields)
    for name in ("images", "categories"):
        counts = collections.Counter(entry["id"] for entry in contents[name])
        for entry_id, count in counts.items():
            if count > 1:
                raise _not_coco(path, f"`id` in `{name}`", "unique", entry_id)
    return contents


def _check_entry(path, name, entry, fields):
    if not isinstance(entry, dict):
        raise _not_coco(path, f"`{name}`", "an object", entry)
    for field, types in fields.items():
        value = entry.get(field)
        if type(value) not in types:
            wanted = " or ".join(each.__name__ for each in types)
            raise _not_coco(path, f"`{name}.{field}`", wanted, value)
        if field in ("height", "width") and value < 1:
            raise _not_coco(path, f"`{name}.{field}`", "positive", value)


def _not_coco(path, field, wanted, value):
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return ValueError(f"{path} is no COCO file: {field} must be {wanted}, but is {shown}.")


def _read(annotation, images, places, labels, earlier):
    """Makes an `AnnotatedObject`, or raises `BadAnnotation`."""
    if annotation["id"] in earlier:
        raise BadAnnotation("id that came before")
    earlier.add(annotation["id"])
    place = _known(places, annotation.get("image_id"), "unknown image")
    label = _known(labels, annotation.get("category_id"), "unknown category")
    height, width = images[place].height, images[place].width
    box = annotation.get("bbox")
    if not _is_numbers(box) or len(box) != 4:
        raise BadAnnotation("malformed bbox")
    if not are_finite(box):
        raise BadAnnotation("number that is not finite")
    box = visible_box((box[0], box[1], box[0] + box[2], box[1] + box[3]), height, width)
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise BadAnnotation("malformed iscrowd")
    area = annotation.get("area", box_area(box))
    if not _is_numbers([area]):
        raise BadAnnotation("malformed area")
    if not are_finite([area]):
        raise BadAnnotation("number that is not finite")
    if area <= 0:
        raise BadAnnotation("area that is not positive")
    _check_segmentation(annotation.get("segmentation"), height, width)
    return AnnotatedObject(place, box, label, bool(crowd), area)


def _known(mapping, key, rule):
    if not isinstance(key, (int, str)) or key not in mapping:
        raise BadAnnotation(rule)
    return mapping[key]


def _is_numbers(values):
    return isinstance(values, list) and set(map(type, values)) <= {int, float}


def _check_segmentation(segmentation, height, width):
    """Raises `BadAnnotation` unless it is polygons, a run-length encoded mask, or nothing."""
    if isinstance(segmentation, dict):
        _check_mask(segmentation, height, width)
    elif isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon)
    elif segmentation is not None:
        raise BadAnnotation("malformed segmentation")


def _check_mask(mask, height, width):
    counts = mask.get("counts")
    if mask.get("size") != [height, width]:
        raise BadAnnotation("mask of another size than its image")
    if isinstance(counts, str):
        return
    if not isinstance(counts, list) or not all(type(each) is int and each >= 0 for each in counts):
        raise BadAnnotation("malformed segmentation")
    if sum(counts) != height * width:
        raise BadAnnotation("mask of another size than its image")


def _check_polygon(polygon):
    if not _is_numbers(polygon):
        raise BadAnnotation("malformed segmentation")
    if not are_finite(polygon):
        raise BadAnnotation("number that is not finite")
    if len(polygon) % 2:
        raise BadAnnotation("polygon with an odd number of coordinates")
    if len(polygon) < 6:
        raise BadAnnotation("polygon of fewer than three points")
