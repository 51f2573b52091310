"""Weights for RGB images in models for images of other channels."""

import json
import math

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_spm
from keras_spm.layers.image_normalization import IMAGENET_MEAN, IMAGENET_STD
from keras_spm.weights import FormatError, MismatchError
from tests import golden
from tests.helpers import difference, random_array, randomize, to_numpy

KERNEL = "stem/projection/kernel"
CHANNELS = (1, 4, 8)
# A layout of each family, and those with other names of the stem.
NAMES = ["pvt", "pvt_v2", "timm_swin"]
if keras.config.backend() == "torch":
    NAMES += ["transformers_pvt", "timm_pvt_v2", "transformers_swin"]


def _adapted(kernel, channels):
    """The formula of timm's `adapt_input_conv` for (out, in, height, width)."""
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    repeated = np.tile(kernel, (1, math.ceil(channels / 3), 1, 1))[:, :channels]
    return repeated * (3 / channels)


def _shape(channels, data_format="channels_last"):
    return (None, None, channels) if data_format == "channels_last" else (channels, None, None)


def _stem(state):
    """The name of the first convolution in a state dict."""
    (name,) = (name for name, array in state.items() if array.ndim == 4 and array.shape[1] == 3)
    return name


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_adapted_as_in_timm(name):
    state, layout = golden.state(name), golden.BACKBONES[name][1]
    stem = _stem(state)
    for channels in CHANNELS:
        backbone = golden.backbone(name, image_shape=_shape(channels))
        report = keras_spm.load_torch_weights(backbone, state)
        assert report.adapted_channels == {stem: (3, channels)} and not report.resized
        assert f"adapted to other channels: {stem} 3 → {channels}" in str(report)
        exported = keras_spm.to_torch_state_dict(backbone, layout)
        expected = _adapted(state[stem].astype("float64"), channels)
        # A transformers model without a classifier has no prefix.
        own = stem if stem in exported else stem.partition(".")[2]
        np.testing.assert_allclose(exported[own], expected, rtol=1e-6, atol=1e-6)
        for other in exported.keys() & state.keys() - {stem}:
            np.testing.assert_array_equal(exported[other], state[other], err_msg=other)
        # Its own kernel is loaded as it is.
        again = golden.backbone(name, image_shape=_shape(channels))
        assert not keras_spm.load_torch_weights(again, exported).adapted_channels
        assert difference(*(each.stem.projection.kernel for each in (again, backbone))) == 0


@pytest.mark.only("torch")
def test_three_channels_are_not_touched():
    state = golden.state("pvt_v2")
    backbone = golden.backbone("pvt_v2")
    assert keras_spm.load_torch_weights(backbone, state).adapted_channels == {}
    kernel = to_numpy(backbone.stem.projection.kernel).transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, state[_stem(state)])


def _classifier(name="pvt_v2", **arguments):
    backbone = randomize(golden.short_backbone(name))
    return randomize(
        keras_spm.ImageClassifier(backbone, 3, class_names=["a", "b", "c"], **arguments)
    )


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["pvt", "pvt_v2", "official_swin"])
def test_backbones_from_presets(tmp_path, name):
    backbone = randomize(golden.short_backbone(name))
    backbone.save_to_preset(tmp_path / "saved")
    kernel = to_numpy(backbone.stem.projection.kernel)
    images = random_array(2, 32, 32, 8)
    for channels in CHANNELS:
        last, first = (
            type(backbone).from_preset(
                tmp_path / "saved", image_shape=_shape(channels, each), data_format=each
            )
            for each in ("channels_last", "channels_first")
        )
        assert last.load_report.adapted_channels == {KERNEL: (3, channels)}
        expected = _adapted(kernel.transpose(3, 2, 0, 1), channels).transpose(2, 3, 1, 0)
        for each in (last, first):
            np.testing.assert_allclose(each.stem.projection.kernel, expected, rtol=1e-6, atol=1e-6)
        if channels == 4:  # Another graph takes time.
            outputs = first(images[..., :4].transpose(0, 3, 1, 2))
            outputs = to_numpy(outputs).transpose(0, 2, 3, 1)
            assert difference(outputs, last(images[..., :4])) < 1e-5
            last.save_to_preset(tmp_path / "four")
            again = type(backbone).from_preset(tmp_path / "four")
            assert again.load_report.adapted_channels == {}
            assert difference(again(images[..., :4]), last(images[..., :4])) == 0


@pytest.mark.only("torch")
def test_a_task_from_a_preset(tmp_path):
    preprocessing = keras_spm.data.ImagePreprocessing((40, 36))
    model = _classifier(preprocessing=preprocessing)
    model.save_to_preset(tmp_path / "saved")
    # The preset's statistics are adapted, those of the caller are not.
    gray = keras_spm.ImageClassifier.from_preset(tmp_path / "saved", image_shape=_shape(1))
    assert gray.load_report.adapted_channels == {KERNEL: (3, 1)}
    assert gray.mean == (sum(IMAGENET_MEAN) / 3,) and gray.std == (sum(IMAGENET_STD) / 3,)
    assert gray.preprocessing.channels == 1 and model.preprocessing.channels == 3
    assert gray.classify(np.zeros((50, 50), "uint8"))[0][0] in "abc"
    segmenter = keras_spm.SemanticSegmenter.from_preset(
        tmp_path / "saved", num_classes=2, image_shape=_shape(4), mean=(0.5,) * 4
    )
    assert segmenter.mean == (0.5,) * 4 and segmenter.std == (*IMAGENET_STD, IMAGENET_STD[0])
    assert segmenter.backbone.image_shape == _shape(4)
    assert segmenter.load_report.adapted_channels == {KERNEL: (3, 4)}


@pytest.mark.only("torch")
def test_another_merging_and_other_channels(tmp_path):
    randomize(golden.short_backbone("pvt_v2")).save_to_preset(tmp_path / "saved")
    with pytest.warns(UserWarning, match="randomly initialized"):
        spm = keras_spm.PVTv2SPM.from_preset(tmp_path / "saved", image_shape=_shape(4))
    assert spm.load_report.adapted_channels == {KERNEL: (3, 4)}


@pytest.mark.only("torch")
def test_a_folder_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, num_labels=3
    )
    reference = transformers.SwinForImageClassification(config)
    reference.save_pretrained(tmp_path)
    model = keras_spm.ImageClassifier.from_preset(tmp_path, image_shape=_shape(8))
    name = "swin.embeddings.patch_embeddings.projection.weight"
    kernel = reference.swin.embeddings.patch_embeddings.projection.weight.detach().numpy()
    assert model.load_report.adapted_channels == {name: (3, 8)}
    exported = keras_spm.to_torch_state_dict(model, "transformers")
    np.testing.assert_allclose(exported[name], _adapted(kernel, 8), rtol=1e-6)


@pytest.mark.only("torch")
def test_a_folder_of_transformers_with_other_channels(tmp_path):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    config = transformers.PvtV2Config(num_channels=2, num_labels=3, **sizes)
    reference = transformers.PvtV2ForImageClassification(config).eval()
    reference.save_pretrained(tmp_path)
    model = keras_spm.ImageClassifier.from_preset(tmp_path, mean=(0, 0), std=(1, 1))
    assert not model.load_report.adapted_channels
    images = np.random.default_rng(0).random((1, 64, 64, 2), "float32")
    with torch.no_grad():
        expected = reference(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy()
    found = to_numpy(model(images * 255))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("own", "input_size"), [({"model_args": {"in_chans": 1}}, [3, 64, 64]), ({}, [1, 64, 64])]
)
def test_a_folder_of_timm_with_other_channels(own, input_size, tmp_path):
    """`in_chans` is an argument of the model, by default the channels of `input_size`."""
    backbone = keras_spm.PVTv2.from_preset("b0", load_weights=False, image_shape=_shape(1))
    saved = keras_spm.ImageClassifier(randomize(backbone), 3)
    save_file(keras_spm.to_torch_state_dict(saved, "timm"), tmp_path / "model.safetensors")
    settings = {"input_size": input_size, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    config = {"architecture": "pvt_v2_b0", "num_classes": 3, "pretrained_cfg": settings, **own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = keras_spm.ImageClassifier.from_preset(tmp_path)
    assert model.backbone.image_shape == _shape(1) and not model.load_report.adapted_channels
    assert model.mean == (sum(IMAGENET_MEAN) / 3,)
    assert difference(model.backbone.weights[0], saved.backbone.weights[0]) == 0


# === Errors ===


@pytest.mark.only("torch")
def test_only_the_first_convolution_of_rgb_is_adapted():
    state = golden.state("pvt_v2")
    stem = _stem(state)
    four = {**state, stem: np.repeat(state[stem], 2, axis=1)[:, :4]}
    for channels in (1, 3, 8):
        backbone = golden.backbone("pvt_v2", image_shape=_shape(channels))
        with pytest.raises(MismatchError, match=rf"shape: {stem} is .*, 4, .*, {channels}, "):
            keras_spm.load_torch_weights(backbone, four)
    (other,) = (name for name in state if name == "patch_embed2.proj.weight")
    backbone = golden.backbone("pvt_v2", image_shape=_shape(4))
    with pytest.raises(MismatchError, match=f"shape: {other} is"):
        keras_spm.load_torch_weights(backbone, {**state, other: state[other][:, :3]})


@pytest.mark.only("torch")
def test_a_configuration_with_other_channels_than_its_weights(tmp_path):
    randomize(golden.short_backbone("pvt_v2")).save_to_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone"]["config"]["image_shape"] = [None, None, 4]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="weights for images of other channels than its conf"):
        keras_spm.PVTv2.from_preset(tmp_path)


# === Outputs ===


@pytest.mark.parametrize(
    "name",
    [
        "pvt_v2",
        *(pytest.param(name, marks=pytest.mark.only("torch")) for name in ("pvt", "official_swin")),
    ],
)
def test_gray_images_give_what_they_give_in_rgb(name):
    """With equal statistics per channel, the sum of the kernel is exact."""
    model = _classifier(name, mean=(0.4,) * 3, std=(0.2,) * 3)
    gray = keras_spm.ImageClassifier(
        golden.short_backbone(name, image_shape=_shape(1)), 3, mean=(0.4,), std=(0.2,)
    )
    keras_spm.load_torch_weights(gray, keras_spm.to_torch_state_dict(model))
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 36, 1), dtype="uint8")
    expected = model(np.repeat(images, 3, axis=-1))
    assert difference(gray(images), expected) < 1e-5 * max(1, np.abs(to_numpy(expected)).max())
