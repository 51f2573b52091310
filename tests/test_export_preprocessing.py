"""Preprocessing inside exported files, compared with Pillow, and the signatures of a SavedModel."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm.data.preprocessing import INTERPOLATIONS, ImagePreprocessing
from keras_spm.export import ServedModel, run_exported
from keras_spm.export.preprocessing import resize_and_crop
from tests.exported import CLASSES
from tests.helpers import randomize, tiny_backbone

# Of these, every version of Pillow resizes rows first.
SIZES = ((48, 64), (43, 37), (171, 299))


def _pixels(height, width, channels=3):
    generator = np.random.default_rng(height + width)
    return generator.integers(0, 256, (height, width, channels), "uint8")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_pct", [None, 0.875])
def test_pillow_resizes_and_crops_equally(interpolation, crop_pct):
    preprocessing = ImagePreprocessing((48, 64), crop_pct, interpolation)
    for size in SIZES:
        image = _pixels(*size)
        result = resize_and_crop(image[None], (48, 64), crop_pct, interpolation)
        result = keras.ops.convert_to_numpy(result)[0]
        difference = np.abs(result - preprocessing(image))
        if interpolation == "nearest":  # Pillow's sums of floats decide between two neighbors.
            assert (difference > 0).mean() < 0.05
        else:  # Its weights of 22 bits decide where a value is half way between two integers.
            assert difference.max() <= 1 and (difference > 0).mean() < 0.05


def test_floats_and_channels_first():
    image = _pixels(171, 299, 4)
    expected = ImagePreprocessing((48, 64), channels=4)(image)
    images = (image[None] + np.float32(0.3)).transpose(0, 3, 1, 2)
    result = resize_and_crop(images, (48, 64), data_format="channels_first")
    result = keras.ops.convert_to_numpy(result)[0].transpose(1, 2, 0)
    assert np.abs(result - expected).max() <= 1


def _classifier():
    preprocessing = ImagePreprocessing((48, 64), crop_pct=0.9)
    return randomize(
        keras_spm.ImageClassifier(tiny_backbone(), 3, CLASSES, preprocessing=preprocessing)
    )


def _jpeg(seed):
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype="uint8")
    file = io.BytesIO()
    Image.fromarray(small).resize((100 + seed, 80)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.only("torch")
def test_a_model_without_preprocessing_is_refused():
    with pytest.raises(ValueError, match="`include_preprocessing` needs a classifier with"):
        ServedModel(keras_spm.ImageClassifier(tiny_backbone(), 3), False, True)


@pytest.mark.only("torch")
def test_onnx_takes_images_of_any_size(tmp_path):
    model, path = _classifier(), tmp_path / "model.onnx"
    model.export(path, format="onnx", verbose=False, include_preprocessing=True)
    run = run_exported.OPENERS["onnx"](str(path))
    for size in SIZES:
        image = _pixels(*size)
        expected = model.predict_on_batch(model.preprocessing(image)[None])
        np.testing.assert_allclose(
            run(image[None].astype("float32"))["logits"], expected, atol=2e-2
        )


@pytest.mark.only("tensorflow")
def test_signatures_of_a_saved_model(tmp_path):
    """As TensorFlow Serving calls them."""
    import tensorflow as tf

    model = _classifier()
    model.export(tmp_path / "saved", verbose=False, include_preprocessing=True)
    signatures = tf.saved_model.load(tmp_path / "saved").signatures
    assert set(signatures) == {"serve", "serve_bytes", "serving_default"}
    files = [_jpeg(seed) for seed in range(3)]
    images = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    expected = model.predict_on_batch(model.preprocessing(images))
    logits = signatures["serve_bytes"](image_bytes=tf.constant(files))["logits"]
    np.testing.assert_allclose(logits, expected, atol=2e-2)
    image = tf.constant(images[0][None], "float32")
    logits = signatures["serving_default"](images=image)["logits"]
    np.testing.assert_allclose(logits, expected[:1], atol=2e-2)
