"""Objects and segmentation maps from folders laid out as Pascal VOC's."""

import functools
import pathlib

from keras_spm.data.annotations import AnnotatedImages
from keras_spm.data.annotations import AnnotatedObject
from keras_spm.data.annotations import BadAnnotation
from keras_spm.data.annotations import ListedImage
from keras_spm.data.annotations import box_area
from keras_spm.data.annotations import visible_box
from keras_spm.data.categories import VOC_CLASS_NAMES
from keras_spm.data.segmentation_maps import SegmentationMapFiles
from keras_spm.registry import lookup


class VocDetection(AnnotatedImages):
    """Objects with boxes from a folder laid out as Pascal VOC's, such as `VOCdevkit/VOC2012`.

    A sequence of `DetectionExample`s whose images are paths, in the order of
    `ImageSets/Main/{split}.txt`, with `Annotations/{name}.xml` and `JPEGImages/{name}.jpg`.

    VOC counts pixels from 1 and names the first and the last that a box holds: left is
    xmin - 1, and right is xmax. What then passes the edge of the image is cut off. VOC has
    no areas, so an object has its box's.

    An object marked `difficult` is given as a crowd: VOC's own evaluation counts it neither
    as missed nor, where it is found, as wrong, which is what COCO's does for crowds. (COCO's
    takes the share of the found box that overlaps, VOC's the intersection over union.)

    These break rules: a class that is not in `class_names`, a malformed or non-finite box,
    one without area or outside the image, a `difficult` that is neither 0 nor 1, a missing
    image file. An object that is dropped becomes background: look through `invalid_annotations` first.

    Args:
        folder: path of the folder that holds `ImageSets`.
        split: name of a list in `ImageSets/Main`, such as `"train"`.
        class_names: sequence of str, or `None` for VOC's 20.
        invalid: `"raise"`, or `"drop"` to leave out what breaks a rule.

    Attributes:
        class_names: list of str; labels are places in it.
        invalid_annotations: {rule: [ids]}, what was left out: `"2007_000027 #2"` is the second object
            of an image; for `"missing image file"`, names of images.

    Raises:
        FileNotFoundError: for a folder without such lists, or a missing annotation file.
        ValueError: for an unknown split; for a file that is no VOC annotation, naming the
            field; for objects that break rules, counting them; when an example is asked
            for, for an image of another size than its annotation says, or that cannot be
            read.
    """

    def __init__(self, folder, split, class_names=None, invalid="raise"):
        folder = pathlib.Path(folder)
        self.class_names = list(class_names or VOC_CLASS_NAMES)
        listed, objects = [], []
        for place, name in enumerate(_names(folder, "Main", split)):
            file = folder / "Annotations" / f"{name}.xml"
            root = _parsed(file)
            height, width = (_side(file, root, field) for field in ("height", "width"))
            image = folder / "JPEGImages" / f"{name}.jpg"
            listed.append(ListedImage(image, name, height, width))
            for number, element in enumerate(root.findall("object"), start=1):
                objects.append((f"{name} #{number}", (place, element)))
        labels = {name: label for label, name in enumerate(self.class_names)}
        read = functools.partial(_read, images=listed, labels=labels)
        super().__init__(folder, listed, objects, read, invalid)


class VocSegmentation(SegmentationMapFiles):
    """Segmentation maps from a folder laid out as Pascal VOC's, such as `VOCdevkit/VOC2012`.

    A sequence of `SegmentationExample`s whose images are paths, in the order of
    `ImageSets/Segmentation/{split}.txt`, with `SegmentationClass/{name}.png` and
    `JPEGImages/{name}.jpg`. The PNG's palette is for looking at: its places are the
    classes, and 255, VOC's border around objects, does not count.

    Args:
        folder: path of the folder that holds `ImageSets`.
        split: name of a list in `ImageSets/Segmentation`, such as `"train"`.
        class_names: sequence of str, or `None` for the background and VOC's 20.

    Attributes:
        class_names: list of str; classes are places in it.

    Raises:
        FileNotFoundError: for a folder without such lists, or a missing file.
        ValueError: for an unknown split; when an example is asked for, for a map of another
            size than its image, or with a value that is no class, and for a file that
            cannot be read.
    """

    def __init__(self, folder, split, class_names=None):
        folder = pathlib.Path(folder)
        pairs = [
            (folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
            for name in _names(folder, "Segmentation", split)
        ]
        super().__init__(pairs, list(class_names or ("background", *VOC_CLASS_NAMES)))


def _names(folder, task, split):
    """Returns the image names that a list holds, in its order."""
    lists = folder / "ImageSets" / task
    splits = {file.stem: file for file in sorted(lists.glob("*.txt"))}
    if not splits:
        raise FileNotFoundError(f"{lists} holds no lists of images.")
    file = lookup("split", split, splits)
    names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    for name in names:
        if len(name.split()) > 1:  # A list of one class: with 1 or -1 for each image.
            raise ValueError(f"{file} must hold one name a line. Received: {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"{file} must hold each name once.")
    return names


def _parsed(file):
    from xml.etree import ElementTree

    class NoDocumentType(ElementTree.TreeBuilder):
        """Refuses a document type, without which no entities can be declared."""

        def doctype(self, name, pubid, system):
            raise ValueError("it declares a document type")

    try:
        root = ElementTree.parse(file, ElementTree.XMLParser(target=NoDocumentType())).getroot()
    except (SyntaxError, ValueError, LookupError) as error:
        raise ValueError(f"{file} is no VOC annotation: {error}.") from error
    if root.tag != "annotation":
        raise ValueError(f"{file} is no VOC annotation: it is of {root.tag!r}.")
    return root


def _side(file, root, field):
    text = root.findtext(f"size/{field}", "").strip()
    if not (text.isdecimal() and int(text) > 0):
        raise ValueError(
            f"{file} is no VOC annotation: `size/{field}` must be a positive int, but is {text!r}."
        )
    return int(text)


def _read(annotation, images, labels):
    """Makes an `AnnotatedObject`, or raises `BadAnnotation`."""
    place, element = annotation
    name = element.findtext("name", "").strip()
    if name not in labels:
        raise BadAnnotation("unknown class")
    try:
        left, top, right, bottom = (
            float(element.findtext(f"bndbox/{field}", ""))
            for field in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        raise BadAnnotation("malformed bndbox") from None
    box = visible_box((left - 1, top - 1, right, bottom), images[place].height, images[place].width)
    difficult = element.findtext("difficult", "0").strip()
    if difficult not in ("0", "1"):
        raise BadAnnotation("malformed difficult")
    return AnnotatedObject(place, box, labels[name], difficult == "1", box_area(box))
