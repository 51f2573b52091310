"""Objects with boxes from folders in Pascal VOC's layout."""

import functools
import pathlib
from collections.abc import Sequence

from keras_spm.data.detection_files import (
    DetectionFiles,
    ImageEntry,
    ObjectEntry,
    box_area,
    clip_box,
)
from keras_spm.data.folders import (
    IMAGE_FOLDERS,
    SPLIT_WORDS,
    all_folders,
    common_stems,
    files,
    folders_by_name,
    image_files,
    split_folders,
)
from keras_spm.data.images import image_size
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_class_names,
    find_splits,
    is_outside,
    register_reader,
)
from keras_spm.registry import lookup
from keras_spm.types import PathLike

VOC_CLASS_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_START = 1000  # Bytes in which an annotation says that it is one.
# In small letters; otherwise annotations are beside the images.
_ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")


class VocDetection(DetectionFiles):
    """Objects with boxes from a folder in Pascal VOC's layout, such as `VOCdevkit/VOC2012`.

    A sequence of dicts: `image`, a path, `image_id`, `boxes`, `labels`, `crowd` and `areas`; see
    `keras_spm.data.DetectionBatching`. They are read from `Annotations/{name}.xml` and
    `JPEGImages/{name}.jpg`, in the order of `ImageSets/Main/{split}.txt`. Other names are usual
    too: images of any extension in `images`, or beside the XML files; and no lists, but folders
    `train` and `valid`, or no splits.

    VOC counts pixels from 1 and includes the last pixel: left is xmin - 1, and right is xmax.
    Boxes are clipped to the image; areas are those of the boxes. Objects marked `difficult`
    become crowds, which COCO's evaluation ignores much as VOC's ignores difficult objects.

    Invalid are: a class that is not in `class_names`, a malformed box, one that is not finite,
    without area or outside the image, a `difficult` that is neither 0 nor 1, a missing image
    file. A dropped object becomes background.

    Args:
        folder: path of the folder.
        split: name of a list in `ImageSets/Main`, such as `"train"`, or of a folder of XML
            files; `None` for all XML files.
        class_names: the classes in the order of labels; by default VOC's 20, or all names in
            the folder, sorted, if others occur.
        invalid: `"raise"`, or `"drop"` to leave out invalid annotations.

    Attributes:
        invalid_annotations: {reason: [ids]} of dropped annotations: `"2007_000027 #2"` is the
            second object of an image; for `"missing image file"`, names of images.

    Raises:
        FileNotFoundError: if an annotation file is missing.
        ValueError: if the split is unknown, a file is not a VOC annotation, or objects are
            invalid; when an example is read, if the image has another size than listed.
    """

    def __init__(
        self,
        folder: PathLike,
        split: str | None,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
    ) -> None:
        folder = pathlib.Path(folder)
        documents = {path: _parse(path) for path in _annotation_files(folder, split)}
        if class_names is None:
            class_names = _default_names(folder)
        self.class_names = check_class_names(class_names)
        images, objects = [], []
        paths = _image_paths(folder, documents)
        for index, (file, root) in enumerate(documents.items()):
            height, width = _size(file, root, paths[file])
            images.append(ImageEntry(paths[file], file.stem, height, width))
            for number, element in enumerate(root.findall("object"), start=1):
                objects.append((f"{file.stem} #{number}", (index, element)))
        labels = {name: label for label, name in enumerate(self.class_names)}
        read = functools.partial(_read, images=images, labels=labels)
        super().__init__(folder, images, objects, read, invalid)


def _annotation_files(folder, split):
    """Returns the XML files of a split in order; of the whole folder for `None`."""
    lists = image_lists(folder, "Main")
    if split is not None and lists:
        annotations = _named_folder(folder, _ANNOTATION_FOLDERS) or folder
        names = image_names(folder, lookup("split", split, lists))
        return [annotations / f"{name}.xml" for name in names]
    top = folder if split is None else lookup("split", split, _split_folders(folder))
    return [path for inner in all_folders(top) for path in files(inner, ".xml")]


def _split_folders(folder):
    return split_folders(
        folder, lambda inner: any(files(each, ".xml") for each in all_folders(inner, 2))
    )


def _find_splits(folder):
    folder = pathlib.Path(folder)
    names = [name for name in image_lists(folder, "Main") if name.lower() in SPLIT_WORDS]
    splits = find_splits(names or _split_folders(folder))
    return splits or {"train": "trainval" if "trainval" in image_lists(folder, "Main") else None}


def _recognize_detection(folder):
    if (folder / "ImageSets" / "Main").is_dir():
        return "Pascal VOC format"
    for path in (path for inner in all_folders(folder, 3) for path in files(inner, ".xml")):
        with path.open("rb") as file:
            is_annotation = b"<annotation" in file.read(_START)
        return "Pascal VOC format, without lists" if is_annotation else None
    return None


@register_reader(
    "detection",
    "voc",
    _find_splits,
    layout=("ImageSets/Main/train.txt", "Annotations/*.xml", "JPEGImages/*.jpg"),
    recognize=_recognize_detection,
)
def _read_detection(folder, split, class_names, invalid, verify):
    return VocDetection(folder, split, class_names, invalid)


def _default_names(folder):
    """Returns VOC's names for its own data, else the names in the files of all splits."""
    found = set()
    for path in _annotation_files(folder, None):
        found.update(each.findtext("name", "").strip() for each in _parse(path).findall("object"))
    is_benchmark = (folder / "ImageSets").is_dir() and found <= set(VOC_CLASS_NAMES)
    return VOC_CLASS_NAMES if is_benchmark else sorted(found - {""})


def _image_paths(folder, documents):
    """Returns {XML file: path of its image}, which has the same name but for the extension."""
    images, found = _named_folder(folder, IMAGE_FOLDERS), {}
    for parent in {file.parent for file in documents}:
        near = [_named_folder(each, IMAGE_FOLDERS) for each in (parent, parent.parent)]
        candidates = [each for each in (images, *near, parent) if each is not None]
        # The first folder that has images of these files.
        stems = {file.stem: file for file in documents if file.parent == parent}
        for candidate in candidates:
            known = common_stems(path for path in image_files(candidate) if path.stem in stems)
            if known or candidate is candidates[-1]:
                for stem, file in stems.items():
                    found[file] = known.get(stem, candidates[0] / f"{stem}.jpg")
                break
    return found


def _named_folder(folder, names):
    """Returns the folder in a folder that has one of some names, or None."""
    inside = folders_by_name(folder)
    return next((inside[name] for name in names if name in inside), None)


def image_lists(folder: pathlib.Path, task: str) -> dict[str, pathlib.Path]:
    """Returns {name: path} of the lists of images."""
    return {path.stem: path for path in files(folder / "ImageSets" / task, ".txt")}


def image_names(folder: pathlib.Path, file: pathlib.Path) -> list[str]:
    """Returns the names in a list; a `ValueError` if it is malformed."""
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


def _size(file, root, image):
    """Returns (height, width); of the image if the file has none, as some programs write."""
    texts = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    if all(text.isdecimal() and int(text) > 0 for text in texts):
        return tuple(map(int, texts))
    if texts in (["", ""], ["0", "0"]) and image.is_file():
        return image_size(image)
    raise ValueError(
        f"{file} is not a VOC annotation: `size/height` and `size/width` must be positive ints. "
        f"Received: {texts}"
    )


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
