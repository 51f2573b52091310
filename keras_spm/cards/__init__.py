"""Cards: the address and the published figures of a preset's weights.

There is one JSON file per preset, named by its long name. Unknown values are null.
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

from keras_spm.types import PathLike
from keras_spm.weights.errors import FormatError, shorten
from keras_spm.weights.files import read_json

_FOLDER = pathlib.Path(__file__).parent
CLASSES = ("imagenet-1k", "ade20k", "cityscapes", "coco")


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """License and address of a preset's weights.

    Attributes:
        repository: `owner/name` on the hub, or `None` if no weights are published there.
        revision: commit on the hub, or `None` for the newest.
        sha256: of the weight file, or `None` to trust the hub.
        license: of the weights.
    """

    repository: str | None = None
    revision: str | None = None
    sha256: str | None = None
    license: str | None = None

    @property
    def address(self) -> str | None:
        """`hf://owner/name`, with the revision if there is one, or `None`."""
        if self.repository is None:
            return None
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}"

    @property
    def is_non_commercial(self) -> bool:
        """Whether the license forbids commercial use."""
        return "non-commercial" in (self.license or "")


@dataclasses.dataclass(frozen=True)
class Card(WeightFile):
    """Preprocessing and accuracy of a preset's weights.

    Attributes:
        preprocessing: `image_size`, `crop_pct` and `interpolation` of the evaluation that
            measured the accuracy, see `keras_spm.data.ImagePreprocessing`, and the `mean`
            and `std` of training.
        classes: name of a list of class names, see `read_class_names`.
        published_top1: published ImageNet-1K accuracy in percent.
        published_by: source of that figure.
        measured_top1: accuracy in percent, measured with this package.
        transplant: `images`, `held_out_images`, `steps` and `explained_variance`, {stage: share},
            of mergings that were transplanted, see `keras_spm.transplant`.
        first_logits: of transformers' conversion of the official weights, for image
            000000039769 of COCO's validation split, resized bilinearly to 224x224.
    """

    preprocessing: dict[str, Any] | None = None
    classes: str | None = None
    published_top1: float | None = None
    published_by: str | None = None
    measured_top1: float | None = None
    transplant: dict[str, Any] | None = None
    first_logits: list[float] | None = None

    @property
    def classifier(self) -> dict[str, Any] | None:
        """Arguments of `ImageClassifier` for the weights, or `None` without classes."""
        if self.classes is None:
            return None
        class_names = read_class_names(self.classes)
        preprocessing = dict(self.preprocessing)
        normalization = {key: preprocessing.pop(key) for key in ("mean", "std")}
        return {
            "num_classes": len(class_names),
            "class_names": class_names,
            "preprocessing": preprocessing,
            **normalization,
        }


def read_card(preset: str) -> Card:
    """Returns the card of a preset's long name; an empty one if it has none."""
    path = card_path(preset)
    return read_card_file(path) if path.exists() else Card()


def read_card_file(path: PathLike) -> Card:
    """Returns the card in a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        FormatError: if it is not a card; names the invalid field.
    """
    fields = read_json(pathlib.Path(path), "card")
    if not isinstance(fields, dict):
        raise FormatError(f"{path} has a {type(fields).__name__}, expected a card.")
    known = [field.name for field in dataclasses.fields(Card)]
    for name, value in fields.items():
        if name not in known:
            raise FormatError(f"{path}: unknown field {shorten(repr(name))}.")
        if value is not None and not _is_valid(name, value):
            raise FormatError(f"{path}: {name} cannot be {shorten(repr(value))}.")
    return Card(**fields)


def card_path(preset: str) -> pathlib.Path:
    """Returns the path of the card of a preset's long name."""
    return _FOLDER / f"{preset}.json"


def write_card(card: Card, path: PathLike) -> None:
    """Writes a card as JSON."""
    pathlib.Path(path).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def read_class_names(classes: str) -> list[str]:
    """Returns the class names of a data set in the order of its labels.

    Args:
        classes: one of `CLASSES`. Those of `"ade20k"` are the first names of the benchmark's
            classes. Those of `"imagenet-1k"` are the words of WordNet 3.0; the
            two classes "crane" (bird and machine) have their index appended.
    """
    return (_FOLDER / f"{classes}.txt").read_text().splitlines()


def read_class_colors(classes: str) -> list[list[int]] | None:
    """Returns the usual color of each class of a data set; `None` if there are none.

    Args:
        classes: one of `CLASSES`.
    """
    path = _FOLDER / f"{classes}_colors.txt"
    if not path.exists():
        return None
    return [[int(value) for value in line.split()] for line in path.read_text().splitlines()]


def _is_valid(name, value):
    if name in _PATTERNS:
        return isinstance(value, str) and bool(re.fullmatch(_PATTERNS[name], value, re.ASCII))
    if name == "classes":
        return value in CLASSES
    if name == "preprocessing":
        return isinstance(value, dict) and value.keys() == _PREPROCESSING
    if name == "transplant":
        return isinstance(value, dict) and value.keys() == _TRANSPLANT
    if name == "first_logits":
        return isinstance(value, list) and all(type(item) in (int, float) for item in value)
    return type(value) in ((int, float) if name.endswith("_top1") else (str,))


_PATTERNS = {
    "repository": r"\w[\w.-]*/\w[\w.-]*",
    "revision": "[0-9a-f]{40}",
    "sha256": "[0-9a-f]{64}",
}
_PREPROCESSING = {"image_size", "crop_pct", "interpolation", "mean", "std"}
_TRANSPLANT = {"images", "held_out_images", "steps", "explained_variance"}
