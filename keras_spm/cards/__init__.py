"""Cards: where a preset's published weights are, and what is known of them.

One JSON file a preset, named by its long name. What nobody has measured is null.
"""

import dataclasses
import json
import pathlib
import re

from keras_spm.weights.errors import FormatError
from keras_spm.weights.files import read_json
from keras_spm.weights.messages import shortened

_FOLDER = pathlib.Path(__file__).parent
CLASSES = ("imagenet-1k",)


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a preset's weights.

    Attributes:
        repository: `owner/name` on the hub, or None where nothing is published.
        revision: commit of the hub, or None for the newest.
        sha256: of the weight file, or None for whatever the hub declares.
        license: of the weights.
        preprocessing: `image_size`, `crop_pct` and `interpolation` of the evaluation
            that measured the accuracy, as `keras_spm.data.ImagePreprocessing` takes them,
            with the `mean` and `std` of the training.
        classes: name of a list of class names, see `read_class_names`.
        published_top1: ImageNet-1K accuracy in percent as published.
        published_by: who published that figure.
        measured_top1: as measured with this library.
        first_logits: the first logits that transformers' conversion of the official
            weights gives for image 000000039769 of COCO's validation part, resized
            straight to 224x224 bilinearly.
    """

    repository: str | None = None
    revision: str | None = None
    sha256: str | None = None
    license: str | None = None
    preprocessing: dict | None = None
    classes: str | None = None
    published_top1: float | None = None
    published_by: str | None = None
    measured_top1: float | None = None
    first_logits: list | None = None

    @property
    def address(self):
        """`hf://owner/name` with the revision, or None."""
        if self.repository is None:
            return None
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}"

    @property
    def classifier(self):
        """What the weights say of `ImageClassifier`'s arguments, as a dict."""
        if self.classes is None:
            return {}
        class_names = read_class_names(self.classes)
        preprocessing = dict(self.preprocessing)
        normalization = {key: preprocessing.pop(key) for key in ("mean", "std")}
        return {
            "num_classes": len(class_names),
            "class_names": class_names,
            "preprocessing": preprocessing,
            **normalization,
        }


def read_card(preset):
    """Returns the `Card` of a preset's long name."""
    return read_card_file(card_path(preset))


def read_card_file(path):
    """Returns the `Card` in a JSON file.

    Raises:
        FileNotFoundError: where there is none.
        FormatError: for a file that is no card; names the field that is wrong.
    """
    fields = read_json(pathlib.Path(path), "card")
    if not isinstance(fields, dict):
        raise FormatError(f"{path} holds a {type(fields).__name__}, not a card.")
    for name, value in fields.items():
        if name not in _MEANINGS:
            raise FormatError(f"{path}: {shortened(repr(name))} is no field of a card.")
        if value is not None and not _MEANINGS[name](value):
            raise FormatError(f"{path}: {name} cannot be {shortened(repr(value))}.")
    return Card(**fields)


def card_path(preset):
    """Returns where the card of a preset's long name is."""
    return _FOLDER / f"{preset}.json"


def write_card(card, path):
    """Writes a `Card` as JSON."""
    pathlib.Path(path).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def _matches(pattern):
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII)


def _is_text(value):
    return isinstance(value, str)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_preprocessing(value):
    return isinstance(value, dict) and value.keys() == _PREPROCESSING


_PREPROCESSING = {"image_size", "crop_pct", "interpolation", "mean", "std"}

# What the fields of a card may be, beside null.
_MEANINGS = {
    "repository": _matches(r"\w[\w.-]*/\w[\w.-]*"),
    "revision": _matches("[0-9a-f]{40}"),
    "sha256": _matches("[0-9a-f]{64}"),
    "license": _is_text,
    "preprocessing": _is_preprocessing,
    "classes": lambda value: value in CLASSES,
    "published_top1": _is_number,
    "published_by": _is_text,
    "measured_top1": _is_number,
    "first_logits": lambda value: isinstance(value, list) and all(map(_is_number, value)),
}


def read_class_names(classes):
    """Returns the class names of a data set in the order of its labels.

    Args:
        classes: one of `CLASSES`. For `"imagenet-1k"` they are the words of WordNet 3.0;
            the two cranes, bird and machine, have the number of their class behind them.
    """
    return (_FOLDER / f"{classes}.txt").read_text().splitlines()
