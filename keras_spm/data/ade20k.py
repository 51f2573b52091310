"""The 150 classes of the MIT Scene Parsing Benchmark, known as ADE20K."""

import pathlib

from keras_spm.data.categories import ADE20K_CLASS_NAMES
from keras_spm.data.segmentation_maps import SegmentationMapFiles
from keras_spm.registry import lookup


class Ade20k(SegmentationMapFiles):
    """Segmentation maps of the benchmark's own folder, `ADEChallengeData2016`.

    A sequence of `SegmentationExample`s whose images are paths, in the order of the files'
    names: `images/{split}/{name}.jpg` with `annotations/{split}/{name}.png`. A file holds 0
    for what does not count, given as 255, and k for class k - 1.

    Args:
        folder: path of `ADEChallengeData2016`.
        split: `"training"` or `"validation"`.

    Attributes:
        class_names: list of 150 str; classes are places in it.

    Raises:
        FileNotFoundError: for a folder without images, or a missing map.
        ValueError: for an unknown split; when an example is asked for, for a map of another
            size than its image, or with a value that is no class, and for a file that
            cannot be read.
    """

    def __init__(self, folder, split):
        folder = pathlib.Path(folder)
        splits = {each.name: each for each in sorted(folder.glob("images/*")) if each.is_dir()}
        if not splits:
            raise FileNotFoundError(f"{folder / 'images'} holds no folders of images.")
        images = sorted(lookup("split", split, splits).glob("*.jpg"))
        maps = [folder / "annotations" / split / f"{image.stem}.png" for image in images]
        pairs = list(zip(images, maps, strict=True))
        super().__init__(pairs, list(ADE20K_CLASS_NAMES), first_class=1)
