"""Preprocessing: comparison with transformers, and unusual files."""

import pathlib

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

import keras_spm
from keras_spm.data import ImagePreprocessing
from keras_spm.layers.image_normalization import IMAGENET_MEAN, IMAGENET_STD
from tests.helpers import random_array

# Nothing here depends on the backend but for the test of tf.data.
torch_only = pytest.mark.only("torch")

PHOTOGRAPHS = sorted(pathlib.Path(sklearn.datasets.__file__).parent.glob("images/*.jpg"))


@torch_only
@pytest.mark.parametrize("file", PHOTOGRAPHS, ids=lambda file: file.stem)
@pytest.mark.parametrize(
    ("processor", "settings", "preprocessing"),
    [
        ("Pvt", {"resample": 3}, ImagePreprocessing((224, 224))),
        ("Pvt", {"resample": 2}, ImagePreprocessing((224, 224), interpolation="bilinear")),
        ("ViT", {"resample": 0}, ImagePreprocessing((224, 224), interpolation="nearest")),
        ("ViT", {"resample": 1}, ImagePreprocessing((224, 224), interpolation="lanczos")),
        (
            "Pvt",
            {"resample": 3, "size": {"height": 192, "width": 320}},
            ImagePreprocessing((192, 320)),
        ),
        # Transformers rounds half a pixel down, torchvision and this package to the even
        # side; with these sizes there is no half pixel.
        (
            "Bit",
            {"size": {"shortest_edge": 257}, "crop_size": {"height": 225, "width": 225}},
            ImagePreprocessing((225, 225), 225 / 257),
        ),
    ],
)
def test_equals_transformers(file, processor, settings, preprocessing):
    import transformers

    statistics = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    theirs = getattr(transformers, f"{processor}ImageProcessorPil")(**statistics, **settings)
    reference = theirs(Image.open(file), return_tensors="np")["pixel_values"][0]
    normalization = keras_spm.layers.ImageNormalization()
    ours = normalization(preprocessing(file)[None])[0]
    # In standard deviations: the pixels are equal, the normalization rounds.
    assert np.abs(ours.numpy().transpose(2, 0, 1) - reference).max() < 1e-5


@torch_only
def test_center_crop():
    image = np.random.default_rng(0).integers(0, 256, (256, 301, 3), dtype="uint8")
    # The shorter side is 224 / 0.875. 38.5 pixels are rounded to the even side.
    cropped = ImagePreprocessing((224, 224), crop_pct=0.875)(image)
    np.testing.assert_array_equal(cropped, image[16:240, 38:262])
    upright = ImagePreprocessing((224, 224), crop_pct=0.875)(image.transpose(1, 0, 2))
    np.testing.assert_array_equal(upright, image.transpose(1, 0, 2)[38:262, 16:240])
    np.testing.assert_array_equal(ImagePreprocessing((256, 301), 1.0)(image), image)


@torch_only
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (31, 33), (427, 640)])
@pytest.mark.parametrize("image_size", [(32, 32), (48, 24)])
def test_all_input_sizes(size, image_size):
    image = np.full((*size, 3), (1, 2, 250), "uint8")
    for crop_pct in (None, 0.875, 0.9, 1.0):
        prepared = ImagePreprocessing(image_size, crop_pct)(image)
        assert prepared.shape == (*image_size, 3)
        assert (prepared == (1, 2, 250)).all()


def _picture():
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype="uint8")


IDENTITY = ImagePreprocessing((32, 32))


@torch_only
def test_modes_and_orientation(tmp_path):
    picture = _picture()
    colored, gray = Image.fromarray(picture), Image.fromarray(picture[..., 0])
    transparent = colored.copy()
    transparent.putalpha(gray)
    turned = Image.Exif()
    turned[0x0112] = 6  # Rotated by 90 degrees clockwise.
    gray_in_color = np.repeat(picture[..., :1], 3, axis=-1)
    palette = gray.convert("P", palette=Image.Palette.ADAPTIVE)
    deep = Image.fromarray(picture[..., 0].astype("uint16") * 257)
    for image, expected, options in (
        (colored, picture, {}),
        (transparent, picture, {}),
        (gray, gray_in_color, {}),
        (gray.convert("LA"), gray_in_color, {}),
        (palette, np.asarray(palette.convert("RGB")), {"transparency": 0}),
        (deep, gray_in_color, {}),
        (colored, picture.transpose(1, 0, 2)[:, ::-1], {"exif": turned}),
    ):
        path = tmp_path / "picture.png"
        image.save(path, **options)
        np.testing.assert_array_equal(IDENTITY(path), expected)
    np.testing.assert_array_equal(IDENTITY(colored), picture)


@torch_only
def test_single_images_sequences_and_batches(tmp_path):
    picture = _picture()
    Image.fromarray(picture).save(tmp_path / "one.png")
    path = tmp_path / "one.png"
    np.testing.assert_array_equal(IDENTITY(str(path)), picture)
    several = IDENTITY([path, picture, Image.fromarray(picture), picture - 0.25 * (picture > 0)])
    np.testing.assert_array_equal(several, [picture] * 4)
    np.testing.assert_array_equal(IDENTITY(np.stack([picture] * 2)), [picture] * 2)


@torch_only
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 32), "uint8")[None], r"\(height, width, 3\). Received: shape \(1, 32, 32\)"),
        (np.zeros((1, 8, 8, 4)), r"shape \(8, 8, 4\)"),
        (random_array(8, 8, 3), "numbers in"),
        (np.full((8, 8, 3), np.nan), "numbers in"),
        (np.full((8, 8, 3), "a"), "numbers in"),
    ],
)
def test_invalid_arrays_are_errors(image, message):
    with pytest.raises(ValueError, match=message):
        IDENTITY(image)


@torch_only
def test_unreadable_files_are_named(tmp_path):
    Image.fromarray(_picture()).save(tmp_path / "whole.png")
    contents = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(contents[: len(contents) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("half.png", "text.jpg", "."):
        with pytest.raises(ValueError, match="cannot be read as an image"):
            IDENTITY(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.png"):
        IDENTITY([tmp_path / "whole.png", tmp_path / "none.png"])


@torch_only
@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 224},
        {"image_size": (224, 0)},
        {"image_size": (224, 224), "crop_pct": 1.5},
        {"image_size": (224, 224), "crop_pct": 0},
        {"image_size": (224, 224), "interpolation": "cubic"},
    ],
)
def test_invalid_arguments_are_named(arguments):
    name = list(arguments)[-1]
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
        ImagePreprocessing(**arguments)


@pytest.mark.only("tensorflow")
def test_tf_data_sets():
    import tensorflow as tf

    preprocessing = ImagePreprocessing((64, 48), crop_pct=0.875)
    paths = [str(file) for file in PHOTOGRAPHS]
    expected = preprocessing(PHOTOGRAPHS)
    labeled = preprocessing(tf.data.Dataset.from_tensor_slices((paths, [3, 5])))
    assert labeled.element_spec[0].shape == (64, 48, 3)
    images, labels = next(iter(labeled.batch(2)))
    np.testing.assert_array_equal(images, expected)
    assert labels.numpy().tolist() == [3, 5]
    arrays = tf.data.Dataset.from_tensors(np.asarray(Image.open(PHOTOGRAPHS[0])))
    np.testing.assert_array_equal(next(iter(preprocessing(arrays))), expected[0])
