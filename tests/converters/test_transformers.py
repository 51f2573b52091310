"""Models of transformers at their published size, loaded from saved folders."""

import json

import numpy as np
import pytest
import sklearn.datasets
import torch
import transformers

import keras_spm
from keras_spm.converters.hf_config import read_processor
from tests.helpers import difference

# name → (class of the configuration, non-default arguments, class of the model)
MODELS = {
    "pvt_v2_b0": (transformers.PvtV2Config, {}, transformers.PvtV2ForImageClassification),
    "pvt_v2_b1": (
        transformers.PvtV2Config,
        {"hidden_sizes": [64, 128, 320, 512]},
        transformers.PvtV2ForImageClassification,
    ),
    "pvt_tiny": (transformers.PvtConfig, {}, transformers.PvtForImageClassification),
    "swin_tiny": (transformers.SwinConfig, {}, transformers.SwinForImageClassification),
}
CLASSES = 1000


def _reference(name):
    """Returns transformers' model with random values in every tensor."""
    configuration, differences, model = MODELS[name]
    torch.manual_seed(0)
    reference = model(configuration(num_labels=CLASSES, **differences)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return reference


def _ours(name):
    eps = {} if "swin" in name else {"embedding_norm_epsilon": 1e-6}
    backbone = keras_spm.backbones.PyramidBackbone.from_preset(name, load_weights=False, **eps)
    return keras_spm.ImageClassifier(backbone, CLASSES, mean=(0, 0, 0), std=(1, 1, 1))


def _logits(reference, images):
    with torch.no_grad():
        return reference(torch.tensor(images).permute(0, 3, 1, 2)).logits.numpy()


@pytest.mark.filterwarnings("ignore:The first images have negative pixels")
@pytest.mark.only("torch")
@pytest.mark.parametrize("name", MODELS)
def test_logits_at_full_size(tmp_path, name):
    reference = _reference(name)
    # b0 in several files, the others in one file.
    reference.save_pretrained(tmp_path, max_shard_size="4MB" if name == "pvt_v2_b0" else "1GB")
    assert (tmp_path / "model.safetensors").exists() == (name != "pvt_v2_b0")
    model = _ours(name)
    report = keras_spm.load_torch_weights(model, tmp_path)
    assert (
        report.layout == "transformers" and not report.missing_keys and not report.unexpected_keys
    )
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
    expected = _logits(reference, images)
    assert np.abs(expected).max() > 0.5
    assert difference(model.predict(images * 255, verbose=0), expected) <= 1e-4


@pytest.mark.filterwarnings("ignore:The first images have negative pixels")
@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["pvt_v2_b0", "swin_tiny"])
def test_from_pretrained_loads_exported_file(tmp_path, name):
    from keras_spm.cli import main

    model = _ours(name)
    model.save(tmp_path / "model.keras")
    target = tmp_path / "model.safetensors"
    assert (
        main(["export", str(tmp_path / "model.keras"), str(target), "--layout=transformers"]) == 0
    )
    _reference(name).config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] in ("pvt_v2", "swin")
    _, _, cls = MODELS[name]
    theirs, said = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values()), said
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
    expected = _logits(theirs.eval(), images)
    assert difference(model.predict(images * 255, verbose=0), expected) <= 1e-4


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("processor", "settings"),
    [
        (transformers.PvtImageProcessorPil, {"size": {"height": 96, "width": 64}, "resample": 2}),
        (transformers.ViTImageProcessorPil, {"size": 64, "resample": 3, "do_normalize": False}),
        (
            transformers.BitImageProcessorPil,
            {"size": {"shortest_edge": 64}, "crop_size": 48, "image_mean": [0.1, 0.2, 0.3]},
        ),
    ],
)
def test_photograph_from_file_to_logits(tmp_path, processor, settings):
    """Compares processor and model of transformers with a model loaded from their folder."""
    configuration = transformers.PvtV2Config(hidden_sizes=[8, 16, 40, 64], depths=[1, 1, 2, 1])
    theirs = transformers.PvtV2ForImageClassification(configuration).eval()
    theirs.save_pretrained(tmp_path)
    processor(**settings).save_pretrained(tmp_path)
    photograph = sklearn.datasets.load_sample_image("china.jpg")[:425]
    pixels = processor.from_pretrained(tmp_path)(photograph, return_tensors="pt")
    model = keras_spm.ImageClassifier.from_preset(tmp_path)
    logits = model.predict(model.preprocessing(photograph)[None], verbose=0)
    with torch.no_grad():
        assert difference(logits, theirs(**pixels).logits.numpy()) <= 1e-5


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    "settings",
    [{"do_resize": False}, {"size": {"shortest_edge": 64}}, {"size": {"longest_edge": 64}}, {}],
)
def test_unsupported_processor_gives_no_preprocessing(settings):
    known = {"size": {"height": 64, "width": 64}, "resample": 3}
    processor = {**known, **settings} if settings else {}
    assert "preprocessing" in read_processor(known)
    assert "preprocessing" not in read_processor(processor)
