"""Arguments of `keras_spm.data` that can only be mistakes."""

import pytest

from keras_spm.data import (
    ClassificationAugmentation,
    DetectionBatching,
    DigitScenes,
    ImageBatching,
    ImagePreprocessing,
    Mixing,
    SegmentationAugmentation,
)
from keras_spm.data.pipeline import EvaluationBatches, repeated_batches

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

NAN = float("nan")


def _classification(**changes):
    valid = {"image_size": 32, "crop_scale": 0.1, "flip": 0.5, "randaugment_magnitude": 9}
    valid |= {"random_erasing": 0.25, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return ClassificationAugmentation(**{**valid, **changes})


def _mixing(mixup=0.8, cutmix=1.0):
    return Mixing(mixup, cutmix)


def _detection(images=ImageBatching(), **changes):  # noqa: B008
    return DetectionBatching(images, **changes)


def _preprocessing(image_size=(32, 32), **changes):
    return ImagePreprocessing(image_size, **changes)


def _scenes(count=1, side=64):
    return DigitScenes("test", count, side)


def _evaluation(batch_size=2):
    return EvaluationBatches(range(4), None, None, batch_size)


def _repeated(**changes):
    return repeated_batches(range(4), lambda each, generator: each, list, **changes)


_TRAINING = {"batch_size": 2, "seed": 0}
# {function that is valid without changes: {argument: invalid values}}
INVALID = {
    ImageBatching: {
        "min_size": (0, -5, 1.5, True, "800"),
        "max_size": (0, NAN),
        "size_divisor": (0, -32, None),
    },
    _detection: {
        "images": (800, {}),
        "max_objects": (0, -1, None),
        "bounding_box_format": ("foo", "rel_xyxy", None),
    },
    _preprocessing: {
        "image_size": (32, (32,), (32, True), (32, 0), (32, 32.0), "32"),
        "crop_pct": (0, 1.01, NAN, "0.9", True),
        "interpolation": ("cubic", None),
    },
    SegmentationAugmentation: {
        "crop_size": (0, 512.0),
        "scale": (512, (2048,), (2048, 0), (512, 2048)),
        "ratio_range": ((2.0, 0.5), (0, 1), (NAN, 1)),
        "cat_max_ratio": (0, 1.5),
        "flip": (-0.1, 1.1, NAN),
    },
    _classification: {
        "image_size": (0, 32.0),
        "crop_scale": (0, 1.1),
        "flip": (2, -1),
        "randaugment_magnitude": (-1, 11, NAN),
        "random_erasing": (1.5,),
        "mean": ((123, 116, 103), (0.5, 0.5)),
        "std": ((0, 0, 0), (-1, 1, 1), (NAN,) * 3),
    },
    _mixing: {"mixup": (-1, NAN), "cutmix": (-0.5, "1")},
    _scenes: {"count": (0, -1), "side": (8, 64.0)},
    _evaluation: {"batch_size": (0, -1)},
}
CASES = [
    (make, name, value)
    for make, arguments in INVALID.items()
    for name, values in arguments.items()
    for value in values
]


@pytest.mark.parametrize(("make", "name", "value"), CASES)
def test_invalid_arguments_are_named(make, name, value):
    make()
    with pytest.raises(ValueError, match=name) as raised:
        make(**{name: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"seed": -1}, {"repeats": 0}])
def test_invalid_arguments_of_repeated_batches(changes):
    _repeated(**_TRAINING)
    (name,) = changes
    with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
        _repeated(**{**_TRAINING, **changes})


def test_arguments_that_exclude_each_other():
    with pytest.raises(ValueError, match="Received: min_size=64, max_size=32"):
        ImageBatching(64, 32)
    with pytest.raises(ValueError, match="`mixup` or `cutmix` must be above 0"):
        Mixing(0, 0)
