"""Grad-CAM and attention maps against closed forms and finite differences."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm.data import ImageBatching, ImagePreprocessing
from keras_spm.visualize import attention_map, grad_cam
from tests import golden
from tests.helpers import difference, error_message, outputs_of, randomize, to_numpy

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype="uint8")


@pytest.fixture(scope="module")
def classifier():
    return randomize(golden.classifier("pvt_v2_spm"))


@pytest.fixture(scope="module")
def segmenter():
    return golden.randomize_task(golden.segmenter())


def _upsampled(maps, size):
    """Bilinear interpolation between pixel centers, in float64."""
    for axis, length in enumerate(size):
        old = maps.shape[axis]
        positions = (np.arange(length) + 0.5) * old / length - 0.5
        maps = np.apply_along_axis(
            lambda line, old=old, positions=positions: np.interp(positions, np.arange(old), line),
            axis,
            maps,
        )
    return maps


def _scaled(heat, size):
    heat = _upsampled(np.maximum(heat, 0).astype("float64"), size)
    return heat / heat.max()


@pytest.mark.only("torch")
def test_the_last_map_of_a_classifier(classifier, tmp_path):
    """With mean pooling, the weights of the channels are those of the last layer."""
    maps = keras.Model(classifier.input, classifier.get_layer("stage4").output)(IMAGE[None])
    kernel = to_numpy(classifier.get_layer("head").kernel)
    likeliest = int(classifier.classify(IMAGE, top=1)[0][0])
    for name, label in (("2", 2), (None, likeliest)):
        heat = grad_cam(classifier, IMAGE, name, path=tmp_path / "heat.png")
        assert heat.dtype == "float32" and heat.shape == (64, 96)
        assert heat.min() >= 0 and heat.max() == 1
        assert difference(heat, _scaled(to_numpy(maps)[0] @ kernel[:, label], (64, 96))) <= 1e-4
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.format == "PNG" and picture.size == (96, 64)


@pytest.fixture
def two_stages():
    """One that JAX compiles fast."""
    return randomize(keras_spm.ImageClassifier(golden.two_stage_backbone("pvt_v2"), 3))


on_torch = pytest.mark.only("torch")


@pytest.mark.parametrize(
    ("task", "layer"),
    [
        ("two_stages", "stage1"),
        *(pytest.param(name, "stage3", marks=on_torch) for name in ("segmenter", "classifier")),
    ],
)
def test_the_gradient_equals_finite_differences(task, layer, request):
    """The mean gradient of a channel is the change of the logit with the whole channel."""
    model = request.getfixturevalue(task)
    feature_map = model.get_layer(layer).output
    maps = to_numpy(outputs_of(keras.Model(model.input, feature_map), IMAGE[None]))
    rest = keras.Model([model.input, feature_map], model.output)
    channels, step = maps.shape[-1], 0.05
    changes = np.concatenate([np.eye(channels), -np.eye(channels)]).astype("float32") * step
    inputs = [np.repeat(IMAGE[None], 2 * channels, axis=0), maps + changes[:, None, None]]
    logits = to_numpy(outputs_of(rest, inputs)).astype("float64")
    logits = logits.reshape(2 * channels, -1, logits.shape[-1]).sum(axis=1)[:, 1]
    weights = logits[:channels] - logits[channels:]
    heat = grad_cam(model, IMAGE, "1", layer=layer)
    assert difference(heat, _scaled(maps[0] @ weights, (64, 96))) <= 0.01


@pytest.mark.only("torch")
def test_the_heat_map_fits_the_image(classifier, segmenter):
    """After a crop it is 0 around it; padding is cut off; the size is that of the image."""
    cropped = randomize(golden.classifier("pvt_v2_spm"))
    cropped.preprocessing = ImagePreprocessing((64, 64), crop_pct=1)
    heat, inner = grad_cam(cropped, IMAGE, "2"), grad_cam(classifier, IMAGE[:, 16:80], "2")
    assert heat.shape == (64, 96)
    assert not heat[:, :16].any() and not heat[:, 80:].any()
    assert difference(heat[:, 16:80], inner) <= 1e-5
    odd = grad_cam(segmenter, IMAGE[:50, :70], "1")
    assert odd.shape == (50, 70) and odd.max() == 1
    segmenter.batching = ImageBatching(min_size=128)
    assert grad_cam(segmenter, IMAGE, "1").shape == (64, 96)
    segmenter.batching = ImageBatching()


@pytest.mark.only("torch")
def test_heads_and_backbones_of_other_kinds(classifier, tmp_path):
    """A softmax, half precision, a class token, images in channels_first."""
    softmax = keras_spm.ImageClassifier(
        golden.backbone("pvt_v2_spm"), 7, activation="softmax", mean=(0, 0, 0), std=(1, 1, 1)
    )
    softmax.set_weights(classifier.get_weights())
    expected = grad_cam(classifier, IMAGE, "2")
    assert difference(grad_cam(softmax, IMAGE, "2"), expected) <= 1e-5
    first = randomize(golden.classifier("pvt_v2_spm", data_format="channels_first"))
    assert difference(grad_cam(first, IMAGE, "2"), expected) <= 1e-4
    half = randomize(golden.classifier("pvt_v2_spm", dtype="mixed_float16"))
    assert difference(grad_cam(half, IMAGE, "2"), expected) <= 0.05
    weights = attention_map(half, IMAGE, 3)
    assert difference(weights, attention_map(classifier, IMAGE, 3)) <= 0.02
    token = randomize(golden.classifier("pvt"))
    (last,) = {grad_cam(token, IMAGE, "2", layer=each).tobytes() for each in (None, "stage3")}
    assert np.frombuffer(last, "float32").max() == 1


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.only("torch")), 4])
def test_attention_is_that_of_the_layer(classifier, stage, tmp_path):
    weights = attention_map(classifier, IMAGE, stage, tmp_path / "attention.png")
    stride = 2 ** (stage + 1)
    assert weights.shape == (64 // stride, 96 // stride, 5) and weights.dtype == "float32"
    assert difference(weights.sum(-1), np.ones(weights.shape[:2])) <= 1e-6
    before = classifier.get_layer(f"stage{stage - 1}").output
    maps = outputs_of(keras.Model(classifier.input, before), IMAGE[None])
    merging = classifier.backbone.stages[stage - 1].merging
    maps = merging.multi_scale_aggregation(maps)
    expected = merging.guided_local_enhancement.attention_weights(maps)
    assert difference(weights, to_numpy(expected)[0]) <= 1e-6
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.only("torch")
def test_attention_without_padding_and_of_the_second_half_alone():
    model = golden.segmenter("pvt_v2_spm")
    assert attention_map(model, IMAGE[:50, :70]).shape == (7, 9, 5)
    half = golden.classifier("pvt_v2_spm", merging="gle")
    assert attention_map(half, IMAGE).shape == (8, 12, 5)


@pytest.mark.only("torch")
def test_errors(classifier, segmenter):
    detector = golden.detector()
    for function, model, arguments, message in (
        (grad_cam, detector, {}, "ObjectDetector has no class logits to explain"),
        (grad_cam, classifier.backbone, {}, "`model` must be a task"),
        (grad_cam, classifier, {"class_name": "heron"}, "Unknown class_name 'heron'"),
        (grad_cam, classifier, {"layer": "stage5"}, "Did you mean 'stage4'?"),
        (attention_map, segmenter, {}, "must have Stepwise Patch Merging"),
        (attention_map, classifier, {"stage": 1}, "`stage` must be an integer from 2 to 4"),
        (attention_map, classifier.backbone, {}, "`model` must be a task"),
    ):
        assert message in error_message(function, model=model, image=IMAGE, **arguments)
