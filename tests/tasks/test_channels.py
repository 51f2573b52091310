"""Tasks on images of other channels than RGB."""

import itertools
import json

import keras
import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm import cli
from keras_spm.layers.image_normalization import IMAGENET_MEAN, IMAGENET_STD
from tests.helpers import check_equal, tiny_backbone

torch_only = pytest.mark.only("torch")

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 36, 40, 8), dtype="uint8")
CALLS = {"classifier": "classify", "segmenter": "segment", "detector": "detect"}
tasks = pytest.mark.parametrize("name", CALLS)


def _shape(channels, data_format="channels_last"):
    return (None, None, channels) if data_format == "channels_last" else (channels, None, None)


def _task(name, channels, data_format="channels_last", **arguments):
    """Returns a small task with initial weights."""
    shape = _shape(channels, data_format)
    backbone = tiny_backbone(image_shape=shape, data_format=data_format)
    small = {"pyramid_channels": 8, "channels": 8}
    if name == "classifier":
        return keras_spm.ImageClassifier(backbone, 3, **arguments)
    if name == "segmenter":
        return keras_spm.SemanticSegmenter(
            backbone, 3, keras_spm.heads.SemanticFPN(**small), **arguments
        )
    head = keras_spm.heads.RetinaNet(num_convs=1, max_detections=5, score_threshold=0.001, **small)
    return keras_spm.ObjectDetector(backbone, 3, head, **arguments)


def _targets(name):
    if name == "classifier":
        return np.array([0, 2])
    if name == "segmenter":
        return np.random.default_rng(1).integers(0, 3, PIXELS.shape[:3])
    return {"boxes": np.float32([[[4, 5, 30, 28]]] * 2), "labels": np.array([[1], [2]])}


def _results(model, images):
    """Returns the predictions of images as a list of arrays."""
    return [np.asarray(each) for each in keras.tree.flatten(model.predict_images(images))]


def _check_same(left, right):
    assert len(left) == len(right)
    for each, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(each, other)


# Of those graphs that take long to compile, one on every backend.
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("classifier", 1),
        *(
            pytest.param(name, channels, marks=torch_only)
            for name, channels in itertools.product(CALLS, (1, 4))
            if (name, channels) != ("classifier", 1)
        ),
    ],
)
def test_training_saving_loading_and_predicting(tmp_path, name, channels):
    model = _task(name, channels)
    images = PIXELS[..., :channels]
    (loss,) = model.fit(images, _targets(name), verbose=0).history["loss"]
    assert np.isfinite(loss)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_equal(model, loaded, images.astype("float32"))
    assert loaded.mean == model.mean and loaded.std == model.std
    assert len(model.mean) == len(model.std) == channels
    assert loaded.get_config() == model.get_config()
    # A file, an image of Pillow and an array are the same.
    mode = {1: "L", 4: "RGBA"}[channels]
    pictures = [Image.fromarray(np.squeeze(pixels), mode) for pixels in images]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        np.save(tmp_path / f"{number}.npy", images[number])
    expected = _results(model, list(images))
    assert all(values.size for values in expected)
    for several in (
        pictures,
        [tmp_path / "0.png", tmp_path / "1.png"],
        [tmp_path / "0.npy", tmp_path / "1.npy"],
        [np.squeeze(pixels) for pixels in images],
    ):
        _check_same(_results(loaded, several), expected)


@torch_only
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@tasks
def test_eight_channels(name, data_format):
    model = _task(name, 8, data_format)
    images = PIXELS if data_format == "channels_last" else PIXELS.transpose(0, 3, 1, 2)
    model.fit(images, _targets(name), verbose=0)
    assert len(_results(model, list(PIXELS)))
    if name != "classifier":
        assert model.batching.channels == 8
        assert len(_results(model, [PIXELS[0], PIXELS[1, :33]]))


# === Mean and standard deviation ===


@torch_only
@tasks
def test_statistics_are_those_of_imagenet(name):
    gray, rgb, eight = (_task(name, channels) for channels in (1, 3, 8))
    assert rgb.mean == IMAGENET_MEAN and rgb.std == IMAGENET_STD
    assert gray.mean == (sum(IMAGENET_MEAN) / 3,) and gray.std == (sum(IMAGENET_STD) / 3,)
    assert eight.mean == (IMAGENET_MEAN * 3)[:8] and eight.std == (IMAGENET_STD * 3)[:8]
    given = _task(name, 4, mean=(0.1, 0.2, 0.3, 0.4))
    assert given.mean == (0.1, 0.2, 0.3, 0.4) and given.std == (*IMAGENET_STD, IMAGENET_STD[0])
    for wrong in ({"mean": IMAGENET_MEAN}, {"std": IMAGENET_STD}, {"mean": (0.5,)}):
        with pytest.raises(ValueError, match=r"`(mean|std)` .* Received: "):
            _task(name, 4, **wrong)


# === Preprocessing and batching ===


@torch_only
def test_preprocessing_takes_the_channels_of_the_backbone():
    preprocessing = keras_spm.data.ImagePreprocessing((32, 32), crop_pct=0.9)
    model = _task("classifier", 4, preprocessing=preprocessing)
    assert model.preprocessing.channels == 4 and preprocessing.channels == 3
    assert model.preprocessing.crop_pct == 0.9
    assert _task("classifier", 3, preprocessing=preprocessing).preprocessing is preprocessing
    assert len(model.classify([PIXELS[0, ..., :4], PIXELS[0, :20, :, :4]], top=1)) == 2
    batching = keras_spm.data.ImageBatching(min_size=64)
    model = _task("segmenter", 4, batching=batching)
    assert model.batching.channels == 4 and batching.channels == 3
    assert model.segment(PIXELS[0, ..., :4]).shape == (36, 40)


@torch_only
@tasks
def test_evaluation_on_examples(tmp_path, name):
    model = _task(name, 1)
    examples = []
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels[..., :3]).save(tmp_path / f"{number}.png")
        examples.append({"image": tmp_path / f"{number}.png", "label": number})
        examples[-1] |= {
            "segmentation_map": _targets("segmenter")[number],
            "boxes": np.float32([[4, 5, 30, 28]]),
            "labels": np.array([number]),
            "crowd": np.array([False]),
            "areas": np.float32([598]),
        }
    found = model.evaluate_on(examples)
    arrays = [
        {**each, "image": np.asarray(Image.open(each["image"]).convert("L"))[..., None]}
        for each in examples
    ]
    assert found == model.evaluate_on(arrays)


# === The command and the pictures ===


@torch_only
@pytest.mark.parametrize("channels", [1, 4])
def test_the_command_predict(tmp_path, capsys, channels):
    model = _task("classifier", channels)
    model.save(tmp_path / "model.keras")
    Image.fromarray(PIXELS[0, ..., :3]).save(tmp_path / "photo.jpg")
    Image.fromarray(PIXELS[0, ..., :4]).save(tmp_path / "photo.png")
    np.save(tmp_path / "photo.npy", PIXELS[0, ..., :channels])
    paths = [str(tmp_path / name) for name in ("photo.jpg", "photo.png", "photo.npy")]
    output = tmp_path / "pictures"
    arguments = [str(tmp_path / "model.keras"), *paths, "--json", "--output", str(output)]
    assert cli.main(["predict", *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == paths
    expected = model.classify(paths[1], top=3)
    found = [(each["name"], each["probability"]) for each in lines[1]["classes"]]
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], rtol=1e-5)
    assert len(list(output.rglob("*.png"))) == 3
    np.save(tmp_path / "photo.npy", PIXELS[0])
    assert cli.main(["predict", *arguments[:-2]]) == 1
    expected = f"photo.npy cannot be read as an image: An image must be (height, width, {channels})"
    assert expected in capsys.readouterr().err


# === Errors ===


@torch_only
@tasks
def test_wrong_channels_are_named(name):
    model, targets = _task(name, 4), _targets(name)
    rgb = PIXELS[..., :3]
    batch = r"Images must be \(batch, height, width, 4\)\. Received: shape \(batch, 36, 40, 3\)"
    for call in (
        lambda: model.fit(rgb, targets, verbose=0),
        lambda: model.evaluate(rgb, targets, verbose=0),
        lambda: model.predict(rgb, verbose=0),
    ):
        with pytest.raises(ValueError, match=batch):
            call()
    predict = getattr(model, CALLS[name])
    for images, argument in (
        (rgb[0], "`images`"),
        ([PIXELS[0, ..., :4], rgb[0]], r"`images\[1\]`"),
    ):
        message = rf"^{argument} must be \(height, width, 4\)\. Received: shape \(36, 40, 3\)$"
        with pytest.raises(ValueError, match=message):
            predict(images)
    first = _task(name, 4, "channels_first")
    with pytest.raises(ValueError, match=r"Images must be \(batch, 4, height, width\)\. Received"):
        first.predict(PIXELS[..., :4], verbose=0)


@torch_only
def test_files_of_other_channels_are_named(tmp_path):
    Image.fromarray(PIXELS[0, ..., :3]).save(tmp_path / "photo.png")
    for name, call in CALLS.items():
        predict = getattr(_task(name, 8), call)
        with pytest.raises(ValueError, match="photo.png cannot .* 8 channels. Received: 3, mode"):
            predict(tmp_path / "photo.png")


@torch_only
def test_a_backbone_with_an_unknown_number_of_channels():
    images = keras.Input((None, None, None))
    backbone = keras.Model(images, keras.layers.Identity()(images))
    with pytest.raises(ValueError, match="`backbone` must have a fixed number of channels"):
        keras_spm.SemanticSegmenter(backbone, 3)
