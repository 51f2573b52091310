"""Objects from COCO's JSON files: COCO itself, and other data in its format."""

import collections
import functools
import json
import pathlib
import re
from collections.abc import Sequence

from keras_spm.cards import read_class_names
from keras_spm.data.detection_files import (
    DetectionFiles,
    ImageEntry,
    ObjectEntry,
    box_area,
    check_finite,
    clip_box,
)
from keras_spm.data.folders import MASK_FOLDERS, all_folders, files, find_images, split_of
from keras_spm.data.masks import encode_counts, encode_polygons
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_class_names,
    find_splits,
    is_outside,
    register_reader,
)
from keras_spm.types import PathLike

_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
# COCO's names by its category ids, 80 of 1 to 90.
COCO_CATEGORIES = dict(
    zip(
        [key for key in range(1, 91) if key not in _UNUSED_IDS],
        read_class_names("coco"),
        strict=True,
    )
)

# Files of COCO without boxes, or with those of people only.
_OTHER_FILES = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
_START = re.compile(
    rb'(\xef\xbb\xbf)?\s*{\s*"(info|licenses|images|annotations|categories|type)"\s*:'
)

# Required fields and their types.
_FIELDS = {
    "images": {"id": (int, str), "file_name": (str,), "height": (int,), "width": (int,)},
    "categories": {"id": (int,), "name": (str,)},
    "annotations": {"id": (int, str)},
}


class CocoDetection(DetectionFiles):
    """Objects with boxes from a file in COCO's format.

    A sequence of dicts in the order of the file's images: `image`, a path, `image_id`,
    `boxes`, `labels`, `crowd` and `areas`; see `keras_spm.data.DetectionBatching`. Boxes are
    clipped to the image. `iscrowd` defaults to 0 and `area` to the area of the box. A
    `segmentation` is checked; with `masks=True` every object must have one, and it becomes
    `masks` (objects, height, width) bool.

    Invalid are: an unknown image or category, a duplicate id, a field of the wrong type, a
    number that is not finite, a box without area or outside the image, an area that is not
    positive, a polygon with fewer than three points (pycocotools would read two points as a
    box) or an odd number of coordinates, a mask of another size than its image, a missing
    image file. A dropped object becomes background. COCO's own `instances_train2017.json` has
    two boxes without area and must be read with `invalid="drop"`.

    Args:
        annotations: path of the JSON file.
        images: folder that its file names are relative to; by default the folder near the file
            in which most of them are.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.
        allow_outside: whether file names may lead out of the folder of images: absolute paths,
            and those with `..`. Only for files that you trust.
        class_names: the categories in the order of labels; others are unknown. By default all,
            sorted by id. The category 0 that Roboflow adds is left out: no object has it, and
            it is the supercategory of all others.
        masks: whether to read masks, which needs pycocotools.

    Attributes:
        class_names: list of str.
        category_ids: list of int, the file's id of each label.
        invalid_annotations: {reason: [ids]} of dropped annotations, or of missing images.

    Raises:
        FileNotFoundError: if the JSON file does not exist.
        ValueError: if the file is not a COCO file, an image is outside of the folder, boxes are
            not in pixels, or annotations are invalid; when an example is read, if the image has
            another size than listed.

    Example:

    >>> examples = keras_spm.data.CocoDetection("train.json", "images")
    >>> examples[0]["boxes"].shape
    (7, 4)
    """

    def __init__(
        self,
        annotations: PathLike,
        images: PathLike | None = None,
        invalid: str = "raise",
        allow_outside: bool = False,
        class_names: Sequence[str] | None = None,
        masks: bool = False,
    ) -> None:
        contents = _contents(annotations)
        if images is None:
            images = _images_folder(pathlib.Path(annotations), contents)
        folder = pathlib.Path(images)
        for image in contents["images"]:
            if not allow_outside and is_outside(folder, image["file_name"]):
                raise ValueError(
                    f"{annotations} must name images inside {folder}, or be read with "
                    f"`allow_outside=True`. Received: {image['file_name']!r}"
                )
        entries = [
            ImageEntry(folder / image["file_name"], image["id"], image["height"], image["width"])
            for image in contents["images"]
        ]
        ids = {each["name"]: each["id"] for each in _categories(contents)}
        self.class_names = list(ids) if class_names is None else check_class_names(class_names)
        if missing := [name for name in self.class_names if name not in ids]:
            raise ValueError(f"{annotations} must have the categories {missing}. Has: {list(ids)}")
        self.category_ids = [ids[name] for name in self.class_names]
        read = functools.partial(
            _read,
            images=entries,
            image_indices={image.image_id: index for index, image in enumerate(entries)},
            labels={category_id: label for label, category_id in enumerate(self.category_ids)},
            seen=set(),
            masks=masks,
        )
        pairs = ((annotation["id"], annotation) for annotation in contents["annotations"])
        super().__init__(annotations, entries, pairs, read, invalid, masks)


# === Folders ===


def _find_splits(folder):
    """Returns {split: path of its JSON file}; a file without a split is the training split."""
    found = _json_files(pathlib.Path(folder))
    names = {_split_name(path): path for path in found}
    splits = {split: str(names[name]) for split, name in find_splits(names).items()}
    if not splits and len(found) == 1:
        splits = {"train": str(found[0])}
    if not splits:
        received = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        raise ValueError(
            f"{folder} must have a COCO file for each split, such as `train.json` and `val.json`, "
            f"or only one. Received: {received}"
        )
    return splits


def _split_name(path):
    """The name of a file or, if it has no split, that of its folder."""
    return path.parent.name if not split_of(path.stem) and split_of(path.parent.name) else path.stem


def _json_files(folder):
    """Returns the files of instances in a folder and in the folders inside."""
    if folder.is_file():
        return [folder] if _has_coco_keys(folder) else []
    paths = [path for inner in all_folders(folder, 2) for path in files(inner, ".json")]
    paths = [path for path in paths if not path.name.startswith(_OTHER_FILES)]
    instances = [path for path in paths if path.name.startswith("instances_")]
    return [path for path in instances or paths if _has_coco_keys(path)]


def _has_coco_keys(path):
    """Returns whether a file starts like COCO's; the whole file may be large."""
    with path.open("rb") as file:
        return _START.match(file.read(200)) is not None


def _recognize(folder):
    found = _json_files(folder)
    if not found:
        return None
    is_roboflow = all(path.name == "_annotations.coco.json" for path in found)
    return "COCO format" + ", Roboflow layout" * is_roboflow


def _images_folder(annotations, contents):
    """Returns the folder of a file's images: in that of the file, or in the one above."""
    top = annotations.parent
    names = [image["file_name"] for image in contents["images"]]
    split = split_of(_split_name(annotations))
    found = find_images(top, names, split)
    is_inner = split_of(top.name) is not None or top.name.lower() in MASK_FOLDERS
    if is_inner and not any((found / name).is_file() for name in names):
        found = find_images(top.parent, names, split)
    return found


@register_reader(
    "detection",
    "coco",
    _find_splits,
    options=("allow_outside",),
    layout=("annotations/instances_train.json", "annotations/instances_val.json", "images/*.jpg"),
    recognize=_recognize,
    has_masks=True,
)
def _read_coco(folder, split, class_names, invalid, verify, allow_outside=False, masks=False):
    """COCO files in any of the usual places, one per split."""
    return CocoDetection(split, None, invalid, allow_outside, class_names, masks)


# === Contents ===


def _contents(path):
    """Reads the file and checks the required fields."""
    try:
        contents = json.loads(pathlib.Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a COCO file: invalid JSON ({error}).") from error
    if not isinstance(contents, dict):
        raise _not_coco(path, "its contents", "an object", contents)
    for name, fields in _FIELDS.items():
        if not isinstance(contents.get(name), list):
            raise _not_coco(path, f"`{name}`", "a list", contents.get(name))
        for index, entry in enumerate(contents[name]):
            _check_entry(path, f"{name}[{index}]", entry, fields)
    for name, field in (("images", "id"), ("categories", "id"), ("categories", "name")):
        counts = collections.Counter(entry[field] for entry in contents[name])
        for value, count in counts.items():
            if count > 1:
                raise _not_coco(path, f"`{field}` in `{name}`", "unique", value)
    return contents


def _categories(contents):
    """Returns the categories, sorted by id, without the one that Roboflow adds."""
    categories = sorted(contents["categories"], key=lambda category: category["id"])
    first, *others = categories or [{}]
    if others and first["id"] == 0:
        is_above = all(each.get("supercategory") == first["name"] for each in others)
        if is_above and all(each.get("category_id") != 0 for each in contents["annotations"]):
            return others
    return categories


def _check_entry(path, name, entry, fields):
    if not isinstance(entry, dict):
        raise _not_coco(path, f"`{name}`", "an object", entry)
    for field, types in fields.items():
        value = entry.get(field)
        if type(value) not in types:
            expected = " or ".join(each.__name__ for each in types)
            raise _not_coco(path, f"`{name}.{field}`", expected, value)
        if field in ("height", "width") and value < 1:
            raise _not_coco(path, f"`{name}.{field}`", "positive", value)


def _not_coco(path, field, expected, value):
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return ValueError(f"{path} is not a COCO file: {field} must be {expected}. Received: {shown}")


def _read(annotation, images, image_indices, labels, seen, masks):
    if annotation["id"] in seen:
        raise InvalidAnnotation("duplicate id")
    seen.add(annotation["id"])
    index = _find(image_indices, annotation.get("image_id"), "unknown image")
    label = _find(labels, annotation.get("category_id"), "unknown category")
    height, width = images[index].height, images[index].width
    box = annotation.get("bbox")
    if not _is_numbers(box) or len(box) != 4:
        raise InvalidAnnotation("malformed bbox")
    check_finite(box)
    box = clip_box((box[0], box[1], box[0] + box[2], box[1] + box[3]), height, width)
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise InvalidAnnotation("malformed iscrowd")
    area = annotation.get("area", box_area(box))
    if not _is_numbers([area]):
        raise InvalidAnnotation("malformed area")
    check_finite([area])
    if area <= 0:
        raise InvalidAnnotation("area that is not positive")
    segmentation = annotation.get("segmentation")
    _check_segmentation(segmentation, height, width)
    mask = None
    if masks and segmentation:
        is_polygons = isinstance(segmentation, list)
        encode = encode_polygons if is_polygons else encode_counts
        mask = encode(segmentation if is_polygons else segmentation["counts"], height, width)
    return ObjectEntry(index, box, label, bool(crowd), area, mask)


def _find(mapping, key, reason):
    if type(key) not in (int, str) or key not in mapping:
        raise InvalidAnnotation(reason)
    return mapping[key]


def _is_numbers(values):
    return isinstance(values, list) and set(map(type, values)) <= {int, float}


def _check_segmentation(segmentation, height, width):
    """Checks polygons, a run-length encoded mask, or `None`."""
    if isinstance(segmentation, dict):
        _check_mask(segmentation, height, width)
    elif isinstance(segmentation, list):
        for polygon in segmentation:
            if not _is_numbers(polygon):
                raise InvalidAnnotation("malformed segmentation")
            check_finite(polygon)
            if len(polygon) % 2:
                raise InvalidAnnotation("polygon with an odd number of coordinates")
            if len(polygon) < 6:
                raise InvalidAnnotation("polygon with fewer than three points")
    elif segmentation is not None:
        raise InvalidAnnotation("malformed segmentation")


def _check_mask(mask, height, width):
    counts = mask.get("counts")
    if mask.get("size") != [height, width]:
        raise InvalidAnnotation("mask of another size than its image")
    if isinstance(counts, str):
        return
    if not isinstance(counts, list) or not all(type(each) is int and each >= 0 for each in counts):
        raise InvalidAnnotation("malformed segmentation")
    if sum(counts) != height * width:
        raise InvalidAnnotation("mask of another size than its image")
