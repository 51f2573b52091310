"""The MIT Scene Parsing Benchmark, known as ADE20K."""

import pathlib

from keras_spm.cards import read_class_names
from keras_spm.data.folders import image_files, subfolders
from keras_spm.data.readers import find_splits, register_reader
from keras_spm.data.segmentation_files import SegmentationFiles
from keras_spm.registry import lookup
from keras_spm.types import PathLike

# The first name of each class in the benchmark's objectInfo150.txt.
ADE20K_CLASS_NAMES = tuple(read_class_names("ade20k"))


class Ade20k(SegmentationFiles):
    """Segmentation maps in the benchmark's own layout, the folder `ADEChallengeData2016`.

    A sequence of dicts of `image`, the path `images/{split}/{name}.jpg`, or another extension,
    and `segmentation_map` (height, width) uint8, from `annotations/{split}/{name}.png`, sorted
    by name. Stored values 0, for ignored pixels, become 255, and k becomes class k - 1.

    Args:
        folder: path of `ADEChallengeData2016`.
        split: `"training"` or `"validation"`.
        invalid: `"raise"`, or `"drop"` to leave out images without a map of their size.

    Raises:
        FileNotFoundError: if the folder has no images.
        ValueError: if the split is unknown, a map is missing or has another size than its
            image; when an example is read, if a file is invalid.
    """

    def __init__(self, folder: PathLike, split: str, invalid: str = "raise") -> None:
        folder = pathlib.Path(folder)
        splits = {inner.name: inner for inner in subfolders(folder / "images")}
        if not splits:
            raise FileNotFoundError(f"{folder / 'images'} contains no folders of images.")
        images = image_files(lookup("split", split, splits))
        if not images:
            raise FileNotFoundError(f"{splits[split]} contains no images.")
        maps = [folder / "annotations" / split / f"{image.stem}.png" for image in images]
        pairs = list(zip(images, maps, strict=True))
        super().__init__(folder, pairs, ADE20K_CLASS_NAMES, first_class=1, invalid=invalid)


def _find_splits(folder):
    return find_splits(inner.name for inner in subfolders(pathlib.Path(folder, "images")))


def _recognize(folder):
    is_benchmark = all((folder / part / "training").is_dir() for part in ("images", "annotations"))
    # Other data can have these folders, too.
    has_name = folder.name == "ADEChallengeData2016" or (folder / "objectInfo150.txt").is_file()
    return "ADE20K format" if is_benchmark and has_name else None


@register_reader(
    "segmentation",
    "ade20k",
    _find_splits,
    layout=("objectInfo150.txt", "images/training/*.jpg", "annotations/training/*.png"),
    recognize=_recognize,
)
def _read_ade20k(folder, split, class_names, invalid, verify):
    return Ade20k(folder, split, invalid)
