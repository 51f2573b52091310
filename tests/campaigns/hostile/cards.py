"""Cards that name what is no repository, no list of classes, or no card at all."""

import json

from keras_spm.cards import read_card_file
from tests.campaigns.hostile.case import Case

_PREPROCESSING = {
    "image_size": [224, 224],
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


class _Cards:
    """Reads a card, of which every one here must be refused."""

    @staticmethod
    def from_preset(path):
        raise AssertionError(f"{read_card_file(path)} was taken for a card")


def _write(contents):
    def write(folder, valid):
        text = contents if isinstance(contents, str) else json.dumps(contents)
        (folder / "card.json").write_text(text)

    return write


def _link(target):
    def write(folder, valid):
        (folder / "card.json").symlink_to(target)

    return write


_FIELDS = {
    "repository upwards": {"repository": "../../etc"},
    "repository with a step upwards": {"repository": "owner/.."},
    "absolute repository": {"repository": "/etc/passwd"},
    "repository with NUL": {"repository": "owner/na\0me"},
    "repository with an address": {"repository": "http://127.0.0.1/x"},
    "repository that is a list": {"repository": ["owner/name"]},
    "revision upwards": {"revision": "../../../x"},
    "revision that is a branch": {"revision": "main"},
    "sha256 that is short": {"sha256": "0" * 63},
    "sha256 that is a number": {"sha256": 0},
    "classes upwards": {"classes": "../../../../etc/passwd"},
    "absolute classes": {"classes": "/etc/passwd"},
    "classes with NUL": {"classes": "imagenet-1k\0"},
    "classes that are a list": {"classes": ["imagenet-1k"]},
    "preprocessing that is text": {"preprocessing": "bicubic"},
    "preprocessing that is not whole": {"preprocessing": {"image_size": [224, 224]}},
    "preprocessing with more": {"preprocessing": {**_PREPROCESSING, "path": "/etc/passwd"}},
    "accuracy that is text": {"measured_top1": "99"},
    "accuracy that is true": {"published_top1": True},
    "logits that are objects": {"first_logits": [{}]},
    "an unknown field": {"path": "/etc/passwd"},
    "a field with a long name": {"x" * 100_000: 1},
}
_TEXTS = {
    "a list": "[]",
    "no bytes": "",
    "100,000 brackets": "[" * 100_000,
    "a field twice": '{"repository": "a/b", "repository": "../c"}',
    "NaN": '{"measured_top1": NaN}',
}

CASES = (
    *(Case("card", name, _write(each), "card.json", _Cards) for name, each in _FIELDS.items()),
    *(Case("card", name, _write(each), "card.json", _Cards) for name, each in _TEXTS.items()),
    Case("card", "a link to nothing", _link("nothing"), "card.json", _Cards),
    Case("card", "a link to a device", _link("/dev/zero"), "card.json", _Cards),
    Case("card", "a link to what is no card", _link("/etc/passwd"), "card.json", _Cards),
)
