"""Segmentation maps in folders beside the images, and Cityscapes."""

import os
import pathlib
from collections.abc import Sequence

from keras_spm.cards import read_class_names
from keras_spm.data.classes import find_classes
from keras_spm.data.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    common_stems,
    folders_by_name,
    has_images,
    image_files,
    split_of,
    subfolders,
)
from keras_spm.data.readers import check_class_names, find_splits, register_reader
from keras_spm.data.segmentation_files import SegmentationFiles
from keras_spm.registry import lookup
from keras_spm.types import PathLike

# After the name of a split, such as `trainannot` beside `train`.
_MASK_ENDINGS = ("annot", "masks", "mask", "labels", "label", "gt")
_IGNORED = 255
_LOSSY = (".jpg", ".jpeg")
CITYSCAPES_CLASS_NAMES = tuple(read_class_names("cityscapes"))


class MaskFolders(SegmentationFiles):
    """Images and segmentation maps in two folders, such as `images` and `masks`.

    A sequence of dicts of `image`, a path, and `segmentation_map` (height, width) uint8. An
    image and its map have the same name but for the extension, or the names of all maps have
    the same ending more, such as `_mask`. Splits are folders above the two, `train/images`, or
    inside, `images/train`, or beside each other, `train` and `trainannot`.

    Maps are 8-bit images of class numbers, gray or with a palette; 255 is ignored. With the
    colors of the classes, they can be RGB.

    Invalid are: an image without a map, a map without an image, a map of another size than its
    image, an unreadable file.

    Args:
        folder: path of the folder.
        split: `"train"`, `"validation"`, `"test"`, or `None` if there are no splits.
        class_names: the classes in the order of their numbers. By default those of
            `classes.txt` or `classes.json` in the folder, which may have their colors, too, see
            `read_classes`; else the numbers that occur.
        invalid: `"raise"`, or `"drop"` to leave out invalid files.
        label_map: optional {stored value: class number, or 255 for ignored pixels}.

    Attributes:
        class_names: list of str.
        invalid_annotations: {reason: [names]} of dropped files.

    Raises:
        ValueError: if the folder has another layout, the split is unknown, files are invalid and
            not dropped, or all maps have no values but 0 and 255; when an example is read, if a
            map has an unknown value or color.

    Example:

    >>> maps = keras_spm.data.MaskFolders("roads", None, label_map={255: 1})
    >>> maps.class_names
    ['0', '1']
    """

    def __init__(
        self,
        folder: PathLike,
        split: str | None,
        class_names: Sequence[str] | None = None,
        invalid: str = "raise",
        label_map: dict[int, int] | None = None,
    ) -> None:
        folder = pathlib.Path(folder)
        layout = _find_folders(folder)
        classes = find_classes(folder)
        if class_names is None and classes is None:
            class_names = _numbers(folder, layout, label_map)
        elif class_names is None:
            class_names = classes.names
        elif classes is not None and set(classes.names) & set(class_names):
            label_map = _reordered(label_map, classes.names, list(class_names))
        pairs, invalid_annotations = _pairs(*lookup("split", split, layout))
        if lossy := [stored.name for _, stored in pairs if stored.suffix.lower() in _LOSSY]:
            raise ValueError(
                f"{folder} must have segmentation maps without loss, such as PNG: JPEG changes the "
                f"class numbers. Received: {len(lossy)} JPEG files such as {lossy[0]}"
            )
        super().__init__(
            folder,
            pairs,
            check_class_names(class_names),
            invalid=invalid,
            invalid_annotations=invalid_annotations,
            label_map=label_map,
            colors=None if classes is None else classes.colors,
        )
        self.class_colors = _colors_of(self.class_names, classes)


def _colors_of(class_names, classes):
    """Returns the colors of the classes of a file, or `None` if not all are known."""
    if classes is None or classes.colors is None:
        return None
    colors = dict(zip(classes.names, classes.colors.tolist(), strict=True))
    return [colors[name] for name in class_names] if set(class_names) <= set(colors) else None


def _reordered(label_map, names, class_names):
    """Returns a label map from class numbers in the order of `names` to that of `class_names`."""
    if sorted(names) != sorted(class_names):
        raise ValueError(
            f"`class_names` must be those of the folder in any order, {names}, or all others. "
            f"Received: class_names={class_names}"
        )
    numbers = {number: class_names.index(name) for number, name in enumerate(names)}
    mapped = {stored: numbers.get(label, label) for stored, label in (label_map or {}).items()}
    return {**numbers, **mapped}


def _numbers(folder, layout, label_map):
    """Returns the numbers up to the largest one in the maps of all splits, as names."""
    largest = 0
    for images, masks in layout.values():
        pairs, _ = _pairs(images, masks)
        every = [str(number) for number in range(_IGNORED)]
        examples = SegmentationFiles(folder, pairs, every, invalid="drop", label_map=label_map)
        for index in range(len(examples)):
            values = examples.read_values(index)
            largest = max(largest, int(values[values != _IGNORED].max(initial=0)))
    return [str(number) for number in range(largest + 1)]


# === Folders ===


def _find_folders(folder):
    """Returns {split or None: (folder of images, folder of maps)}; {} for another layout."""
    inside = folders_by_name(folder)
    both = _image_and_mask_folder(inside)
    if both is not None:
        return _with_splits(*both) or {None: both}
    found = {}
    for name, inner in inside.items():
        if split_of(name) is None:
            continue
        both = _image_and_mask_folder(folders_by_name(inner))
        for ending in _MASK_ENDINGS:
            for separator in ("", "_", "-"):
                if both is None and f"{name}{separator}{ending}" in inside:
                    both = inner, inside[f"{name}{separator}{ending}"]
        if both is not None:
            found[inner.name] = both
    return {split: found[name] for split, name in find_splits(found).items()}


def _image_and_mask_folder(inside):
    """Returns the folder of images and that of maps among {name: folder}, or None."""
    images = next((inside[name] for name in IMAGE_FOLDERS if name in inside), None)
    masks = next((inside[name] for name in MASK_FOLDERS if name in inside), None)
    if masks is None:
        masks = next((each for name, each in inside.items() if _says_masks(name)), None)
    if images is None and masks is not None and len(inside) == 2:
        images = next(each for each in inside.values() if each != masks)
    return None if images is None or masks is None else (images, masks)


def _says_masks(name):
    return any(word in name for word in ("mask", "annot", "segm", "label"))


def _with_splits(images, masks):
    """Returns {split: (images, maps)} of the folders inside, or {} if images are not inside."""
    if has_images(images):
        return {}
    folders = [{each.name: each for each in subfolders(outer)} for outer in (images, masks)]
    splits = [{split: each[name] for split, name in find_splits(each).items()} for each in folders]
    return {
        split: (splits[0][split], splits[1][split]) for split in splits[0] if split in splits[1]
    }


def _pairs(images, masks):
    """Returns ([(image, map)], {reason: [names]})."""
    images = common_stems(image_files(images, recursive=True))
    masks = common_stems(image_files(masks, recursive=True))
    ending = _common_ending(images, masks)
    pairs, unpaired = [], {}
    for stem, image in images.items():
        if stem + ending in masks:
            pairs.append((image, masks.pop(stem + ending)))
        else:
            unpaired.setdefault("image without a segmentation map", []).append(image.name)
    if masks:
        unpaired["segmentation map without an image"] = [path.name for path in masks.values()]
    return pairs, unpaired


def _common_ending(images, masks):
    """Returns what the names of maps have after the name of their image."""
    endings = {
        mask[len(os.path.commonprefix([mask, image])) :]
        for image, mask in zip(sorted(images), sorted(masks), strict=False)
        if mask.startswith(image)
    }
    return max(
        endings, key=lambda each: sum(f"{name}{each}" in masks for name in images), default=""
    )


def _recognize(folder):
    layout = _find_folders(folder)
    for images, masks in layout.values():
        paths = image_files(masks, recursive=True)[:1]
        if paths and image_files(images, recursive=True)[:1]:
            return "folders of images and masks"
    return None


def _splits(folder):
    layout = _find_folders(pathlib.Path(folder))
    return {split or "train": split for split in layout}


@register_reader(
    "segmentation",
    "masks",
    _splits,
    options=("label_map",),
    layout=("classes.txt", "train/images/*.jpg", "train/masks/*.png"),
    recognize=_recognize,
    is_generic=True,
)
def _read_masks(folder, split, class_names, invalid, verify, label_map=None):
    return MaskFolders(folder, split, class_names, invalid, label_map)


# === Cityscapes ===


class Cityscapes(SegmentationFiles):
    """Segmentation maps of Cityscapes, the folder with `leftImg8bit` and `gtFine`.

    A sequence of dicts of `image`, a path, and `segmentation_map` (height, width) uint8 of the
    19 classes of its benchmark, from the files that end in `_labelTrainIds.png`.

    Args:
        folder: path of the folder.
        split: `"train"` or `"val"`. The maps of the test split are not public.
        invalid: `"raise"`, or `"drop"` to leave out images without a map of their size.

    Raises:
        FileNotFoundError: if the folder has no images.
        ValueError: if the split is unknown, a map is missing or has another size than its image.
    """

    def __init__(self, folder: PathLike, split: str, invalid: str = "raise") -> None:
        folder = pathlib.Path(folder)
        splits = {inner.name: inner for inner in subfolders(folder / "leftImg8bit")}
        if not splits:
            raise FileNotFoundError(f"{folder / 'leftImg8bit'} contains no folders of images.")
        pairs = []
        for image in image_files(lookup("split", split, splits), recursive=True):
            stem = image.stem.removesuffix("_leftImg8bit")
            name = f"{stem}_gtFine_labelTrainIds.png"
            pairs.append((image, folder / "gtFine" / split / image.parent.name / name))
        super().__init__(folder, pairs, CITYSCAPES_CLASS_NAMES, invalid=invalid)


def _cityscapes_splits(folder):
    splits = find_splits(inner.name for inner in subfolders(pathlib.Path(folder, "leftImg8bit")))
    return {split: name for split, name in splits.items() if split != "test"}


def _recognize_cityscapes(folder):
    is_complete = all((folder / part / "train").is_dir() for part in ("leftImg8bit", "gtFine"))
    return "Cityscapes format" if is_complete else None


@register_reader(
    "segmentation",
    "cityscapes",
    _cityscapes_splits,
    layout=("leftImg8bit/train/*/*_leftImg8bit.png", "gtFine/train/*/*_gtFine_labelTrainIds.png"),
    recognize=_recognize_cityscapes,
)
def _read_cityscapes(folder, split, class_names, invalid, verify):
    return Cityscapes(folder, split, invalid)
