"""Comparison of a model with the outputs of another implementation."""

import keras
import numpy as np
import pytest
import torch

from keras_spm import compare, load_torch_weights
from tests import golden
from tests.helpers import random_array, tiny_backbone

# The comparison itself does not depend on the backend.
once = pytest.mark.only("torch")


@pytest.fixture(scope="module")
def model():
    model = golden.classifier("pvt_v2_spm")
    load_torch_weights(model, golden.state("pvt_v2_spm"))
    return model


def _reference():
    arrays, _ = golden.read("pvt_v2_spm")
    maps = {f"P{stage + 1}": arrays[f"stage0.{stage}"] for stage in range(1, 5)}
    return {"images": arrays["input0"], **maps, "logits": arrays["logits0"]}


def test_all_outputs_match(model):
    comparison = compare(model, _reference())
    assert comparison.first_mismatch is None
    assert [each.name for each in comparison.differences] == ["P2", "P3", "P4", "P5", "logits"]
    assert str(comparison).count("matches") == 5 and str(comparison).endswith("all outputs match")


@pytest.mark.only("torch")
def test_channels_first_maps_and_sequences(model):
    reference = _reference()
    reference["images"] = torch.tensor(reference["images"].transpose(0, 3, 1, 2))
    reference["P2"] = torch.tensor(reference["P2"].transpose(0, 3, 1, 2)).to(torch.float64)
    reference["P3"] = reference["P3"].reshape(2, -1, reference["P3"].shape[-1])
    assert compare(model, reference).first_mismatch is None
    first = golden.classifier("pvt_v2_spm", data_format="channels_first")
    load_torch_weights(first, golden.state("pvt_v2_spm"))
    assert compare(first, reference).first_mismatch is None
    assert compare(first, _reference()).first_mismatch is None


@once
def test_maps_whose_height_width_and_channels_are_equal():
    """Their format is that of the images."""
    backbone = tiny_backbone()
    images = random_array(1, 32, 32, 3)
    extractor = keras.Model(backbone.input, backbone.pyramid_outputs["P2"])
    maps = extractor.predict(images, verbose=0)
    assert maps.shape == (1, 8, 8, 8)
    first = {"images": images.transpose(0, 3, 1, 2), "P2": maps.transpose(0, 3, 1, 2)}
    for reference in ({"images": images, "P2": maps}, first):
        assert compare(backbone, reference).first_mismatch is None
    assert compare(backbone, {**first, "images": images}).first_mismatch == "P2"


@once
def test_first_mismatch(model):
    reference = _reference()
    reference["P4"] = reference["P4"] + 3e-3
    reference["P5"] = reference["P5"] * 2
    comparison = compare(model.backbone, {k: v for k, v in reference.items() if k != "logits"})
    assert comparison.first_mismatch == "P4"
    by_name = {each.name: each for each in comparison.differences}
    assert by_name["P4"].largest == pytest.approx(3e-3, rel=1e-2)
    assert by_name["P3"].allclose and not by_name["P5"].allclose
    assert str(comparison).endswith("first mismatch at P4")
    assert compare(model, reference, tolerance=10).first_mismatch is None
    assert compare(model, {**reference, "P2": reference["P2"] * np.nan}).first_mismatch == "P2"


@once
def test_a_wrong_epsilon_in_the_stem_is_found_in_the_first_stage():
    model = golden.classifier("pvt_v2_spm")
    load_torch_weights(model, golden.state("pvt_v2_spm"))
    model.backbone.stem.norm.epsilon = 1e-3
    assert compare(model, _reference()).first_mismatch == "P2"


@once
def test_logits_of_a_pvt_with_a_class_token():
    model = golden.classifier("pvt")
    load_torch_weights(model, golden.state("pvt"))
    arrays, _ = golden.read("pvt")
    reference = {"images": arrays["input1"], "P2": arrays["stage1.1"], "logits": arrays["logits1"]}
    assert compare(model, reference).first_mismatch is None


@once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {**given, "stage1": given["P2"]}, r"Received: .*'stage1'"),
        (lambda given: {"P2": given["P2"]}, "must have 'images'"),
        (lambda given: {"images": given["images"]}, "at least one of P2"),
        (lambda given: {**given, "P3": given["P2"]}, r"'P3' must have the shape"),
        (lambda given: {**given, "images": given["P2"]}, "images with 3 channels"),
        (lambda given: {**given, "images": given["images"][:0]}, r"Received: shape \(0, "),
        (lambda given: list(given), "Received: list"),
    ],
)
def test_bad_references_are_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        compare(model, change(_reference()))
    with pytest.raises(ValueError, match="PVTv2SPM has no logits"):
        compare(model.backbone, _reference())
