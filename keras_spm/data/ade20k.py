"""The MIT Scene Parsing Benchmark, known as ADE20K."""

import pathlib

from keras_spm.data.annotated_files import SegmentationFiles
from keras_spm.data.readers import register_reader
from keras_spm.registry import lookup
from keras_spm.types import PathLike

# The first name of each class in the benchmark's objectInfo150.txt.
ADE20K_CLASS_NAMES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane"),
    *("grass", "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant"),
    *("curtain", "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror"),
    *("rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp"),
    *("bathtub", "railing", "cushion", "base", "box", "column", "signboard"),
    *("chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator"),
    *("grandstand", "path", "stairs", "runway", "case", "pool table", "pillow", "screen door"),
    *("stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower"),
    *("book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer"),
    *("swivel chair", "boat", "bar", "arcade machine", "hovel", "bus", "towel", "light", "truck"),
    *("tower", "chandelier", "awning", "streetlight", "booth", "television", "airplane"),
    *("dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle"),
    *("buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy"),
    *("washer", "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent"),
    *("bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name"),
    *("microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen", "blanket"),
    *("sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier"),
    *("crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass"),
    *("clock", "flag"),
)


class Ade20k(SegmentationFiles):
    """Segmentation maps in the benchmark's own layout, the folder `ADEChallengeData2016`.

    A sequence of dicts of `image`, the path `images/{split}/{name}.jpg`, and `segmentation_map`
    (height, width) uint8, from `annotations/{split}/{name}.png`, sorted by name. Stored values
    0, for ignored pixels, become 255, and k becomes class k - 1.

    Args:
        folder: path of `ADEChallengeData2016`.
        split: `"training"` or `"validation"`.

    Raises:
        FileNotFoundError: if the folder has no images, or a map is missing.
        ValueError: if the split is unknown; when an example is read, if a file is invalid.
    """

    def __init__(self, folder: PathLike, split: str) -> None:
        folder = pathlib.Path(folder)
        splits = {entry.name: entry for entry in sorted(folder.glob("images/*")) if entry.is_dir()}
        if not splits:
            raise FileNotFoundError(f"{folder / 'images'} contains no folders of images.")
        images = sorted(lookup("split", split, splits).glob("*.jpg"))
        maps = [folder / "annotations" / split / f"{image.stem}.png" for image in images]
        super().__init__(list(zip(images, maps, strict=True)), ADE20K_CLASS_NAMES, first_class=1)


@register_reader("segmentation", "ade20k", {"train": "training", "validation": "validation"})
def _read_ade20k(folder, split, class_names, invalid, verify):
    return Ade20k(folder, split)
