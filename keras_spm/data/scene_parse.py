"""The 150 classes of the MIT Scene Parsing Benchmark, known as ADE20K."""

import pathlib

from keras_spm.data.categories import SCENE_PARSE_CLASS_NAMES
from keras_spm.data.class_maps import ClassMapFiles
from keras_spm.registry import lookup


class SceneParse150(ClassMapFiles):
    """Class maps of the benchmark's own folder, `ADEChallengeData2016`.

    A sequence of `SegmentationExample`s whose images are paths, in the order of the files'
    names: `images/{part}/{name}.jpg` with `annotations/{part}/{name}.png`. A file holds 0
    for what does not count, given as 255, and k for class k - 1.

    Args:
        folder: path of `ADEChallengeData2016`.
        part: `"training"` or `"validation"`.

    Attributes:
        class_names: list of 150 str; classes are places in it.

    Raises:
        FileNotFoundError: for a folder without images, or a missing map.
        ValueError: for an unknown part; when an example is asked for, for a map of another
            size than its image, or with a value that is no class, and for a file that
            cannot be read.
    """

    def __init__(self, folder, part):
        folder = pathlib.Path(folder)
        parts = {each.name: each for each in sorted(folder.glob("images/*")) if each.is_dir()}
        if not parts:
            raise FileNotFoundError(f"{folder / 'images'} holds no folders of images.")
        images = sorted(lookup("part", part, parts).glob("*.jpg"))
        maps = [folder / "annotations" / part / f"{image.stem}.png" for image in images]
        pairs = list(zip(images, maps, strict=True))
        super().__init__(pairs, list(SCENE_PARSE_CLASS_NAMES), first_class=1)
