"""Objects and segmentation maps from folders in Pascal VOC's layout."""

import functools
import pathlib
from collections.abc import Sequence

from keras_spm.data.annotated_files import (
    DetectionFiles,
    ImageEntry,
    ObjectEntry,
    SegmentationFiles,
    box_area,
    clip_box,
)
from keras_spm.data.readers import InvalidAnnotation, check_class_names, is_outside, register_reader
from keras_spm.registry import lookup
from keras_spm.types import PathLike

VOC_CLASS_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_SPLITS = {"train": "train", "validation": "val"}


class VocDetection(DetectionFiles):
    """Objects with boxes from a folder in Pascal VOC's layout, such as `VOCdevkit/VOC2012`.

    A sequence of dicts in the order of `ImageSets/Main/{split}.txt`: `image`, a path,
    `image_id`, `boxes`, `labels`, `crowd` and `areas`; see `keras_spm.data.DetectionBatching`.
    They are read from `Annotations/{name}.xml` and `JPEGImages/{name}.jpg`.

    VOC counts pixels from 1 and includes the last pixel: left is xmin - 1, and right is xmax.
    Boxes are clipped to the image; areas are those of the boxes. Objects marked `difficult`
    become crowds, which COCO's evaluation ignores much as VOC's ignores difficult objects.

    Invalid are: a class that is not in `class_names`, a malformed box, one that is not finite,
    without area or outside the image, a `difficult` that is neither 0 nor 1, a missing image
    file. A dropped object becomes background.

    Args:
        folder: path of the folder that contains `ImageSets`.
        split: name of a list in `ImageSets/Main`, such as `"train"`.
        class_names: the classes in the order of labels, or `None` for VOC's 20.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.

    Attributes:
        invalid_annotations: {reason: [ids]} of dropped annotations: `"2007_000027 #2"` is the
            second object of an image; for `"missing image file"`, names of images.

    Raises:
        FileNotFoundError: if the folder has no such lists, or an annotation file is missing.
        ValueError: if the split is unknown, a file is not a VOC annotation, or objects are
            invalid; when an example is read, if the image has another size than listed.
    """

    def __init__(
        self,
        folder: PathLike,
        split: str,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
    ) -> None:
        folder = pathlib.Path(folder)
        self.class_names = check_class_names(
            VOC_CLASS_NAMES if class_names is None else class_names
        )
        images, objects = [], []
        for index, name in enumerate(_image_names(folder, "Main", split)):
            file = folder / "Annotations" / f"{name}.xml"
            root = _parse(file)
            height, width = (_side(file, root, field) for field in ("height", "width"))
            images.append(ImageEntry(folder / "JPEGImages" / f"{name}.jpg", name, height, width))
            for number, element in enumerate(root.findall("object"), start=1):
                objects.append((f"{name} #{number}", (index, element)))
        labels = {name: label for label, name in enumerate(self.class_names)}
        read = functools.partial(_read, images=images, labels=labels)
        super().__init__(folder, images, objects, read, invalid)


@register_reader("detection", "voc", _SPLITS)
def _read_detection(folder, split, class_names, invalid, verify):
    return VocDetection(folder, split, class_names, invalid)


class VocSegmentation(SegmentationFiles):
    """Segmentation maps from a folder in Pascal VOC's layout, such as `VOCdevkit/VOC2012`.

    A sequence of dicts of `image`, a path, and `segmentation_map` (height, width) uint8, in the
    order of `ImageSets/Segmentation/{split}.txt`, from `SegmentationClass/{name}.png` and
    `JPEGImages/{name}.jpg`. Palette indices are class indices; 255, VOC's border around
    objects, is ignored.

    Args:
        folder: path of the folder that contains `ImageSets`.
        split: name of a list in `ImageSets/Segmentation`, such as `"train"`.
        class_names: the classes in the order of indices, or `None` for the background and
            VOC's 20.

    Raises:
        FileNotFoundError: if the folder has no such lists, or a file is missing.
        ValueError: if the split is unknown, or all maps have no values but 0 and 255; when an
            example is read, if a file is invalid.
    """

    def __init__(
        self, folder: PathLike, split: str, class_names: Sequence[str] | None = None
    ) -> None:
        folder = pathlib.Path(folder)
        pairs = [
            (folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
            for name in _image_names(folder, "Segmentation", split)
        ]
        if class_names is None:
            class_names = ("background", *VOC_CLASS_NAMES)
        super().__init__(pairs, check_class_names(class_names))


@register_reader("segmentation", "voc", _SPLITS)
def _read_segmentation(folder, split, class_names, invalid, verify):
    return VocSegmentation(folder, split, class_names)


def _image_names(folder, task, split):
    lists = folder / "ImageSets" / task
    splits = {file.stem: file for file in sorted(lists.glob("*.txt"))}
    if not splits:
        raise FileNotFoundError(f"{lists} contains no lists of images.")
    file = lookup("split", split, splits)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a list of images in UTF-8: {error}.") from error
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        if is_outside(folder, name):
            raise ValueError(f"{file} must name images inside {folder}. Received: {name!r}")
        if len(name.split()) > 1:  # A list of one class, with 1 or -1 per image.
            raise ValueError(f"{file} must have one name per line. Received: {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"{file} has duplicate names.")
    return names


def _parse(file):
    from xml.etree import ElementTree

    class NoDoctype(ElementTree.TreeBuilder):
        # Document types can declare entities that expand exponentially.
        def doctype(self, name, pubid, system):
            raise ValueError("it declares a document type")

    try:
        root = ElementTree.parse(file, ElementTree.XMLParser(target=NoDoctype())).getroot()
    except (SyntaxError, ValueError, LookupError) as error:
        raise ValueError(f"{file} is not a VOC annotation: {error}.") from error
    if root.tag != "annotation":
        raise ValueError(f"{file} is not a VOC annotation: its root is {root.tag!r}.")
    return root


def _side(file, root, field):
    text = root.findtext(f"size/{field}", "").strip()
    if not (text.isdecimal() and int(text) > 0):
        raise ValueError(
            f"{file} is not a VOC annotation: `size/{field}` must be a positive int. "
            f"Received: {text!r}"
        )
    return int(text)


def _read(annotation, images, labels):
    index, element = annotation
    name = element.findtext("name", "").strip()
    if name not in labels:
        raise InvalidAnnotation("unknown class")
    try:
        sides = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (float(element.findtext(f"bndbox/{side}", "")) for side in sides)
    except ValueError:
        raise InvalidAnnotation("malformed bndbox") from None
    box = clip_box((left - 1, top - 1, right, bottom), images[index].height, images[index].width)
    difficult = element.findtext("difficult", "0").strip()
    if difficult not in ("0", "1"):
        raise InvalidAnnotation("malformed difficult")
    return ObjectEntry(index, box, labels[name], difficult == "1", box_area(box))
