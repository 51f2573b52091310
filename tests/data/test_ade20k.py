"""The folder of the MIT Scene Parsing Benchmark."""

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import Ade20k, read_segmentation

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

EXTENSIONS = {"1": ".jpg", "2": ".png"}


def _stored(name):
    return np.random.default_rng(int(name)).integers(0, 151, (24, 36), dtype="uint8")


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
    for name in ("2", "1"):
        Image.new("RGB", (36, 24)).save(tmp_path / f"images/training/{name}{EXTENSIONS[name]}")
        Image.fromarray(_stored(name)).save(tmp_path / f"annotations/training/{name}.png")
    return tmp_path


def test_zero_is_ignored_and_classes_start_at_one(folder):
    examples = Ade20k(folder, "training")
    assert len(examples) == 2 and len(set(examples.class_names)) == 150
    assert examples.class_names[0] == "wall" and examples.class_names[149] == "flag"
    for example, name in zip(examples, ("1", "2"), strict=True):
        assert example["image"] == folder / f"images/training/{name}{EXTENSIONS[name]}"
        stored = _stored(name).astype(int)
        assert example["segmentation_map"].dtype == "uint8"
        np.testing.assert_array_equal(
            example["segmentation_map"], np.where(stored > 0, stored - 1, 255)
        )


def test_missing_files_and_invalid_values_are_errors(folder):
    examples = Ade20k(folder, "training")
    values = np.array([0, 150, 151, 255], "uint8").repeat(216).reshape(24, 36)
    Image.fromarray(values).save(folder / "annotations/training/1.png")
    with pytest.raises(ValueError, match=r"values from 1 to 150, or 0 .* \[151 255\]"):
        examples[0]
    (folder / "annotations/training/1.png").unlink()
    with pytest.raises(ValueError, match=r"1 × missing segmentation map \(1.jpg\)"):
        Ade20k(folder, "training")
    with pytest.raises(ValueError, match="Did you mean 'training'"):
        Ade20k(folder, "train")
    with pytest.raises(FileNotFoundError, match="contains no folders of images"):
        Ade20k(folder / "images", "training")


def test_the_benchmark_is_recognized(folder):
    """Other data with the same folders have other classes."""
    assert read_segmentation(folder, validation_share=0.5).source == "folders of images and masks"
    (folder / "objectInfo150.txt").write_text("")
    examples = read_segmentation(folder, validation_share=0.5).train
    assert len(examples.class_names) == 150
