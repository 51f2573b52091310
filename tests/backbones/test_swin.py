"""Swin at sizes that its windows do not divide, against transformers."""

import keras
import numpy as np
import pytest
import torch
import transformers

from keras_spm import load_torch_weights
from tests import contract, golden
from tests.helpers import difference, randomize


def _reference():
    """transformers' model of the golden's weights that has not seen any image yet.

    It keeps the shift out for good once it has seen a map of one window.
    """
    _, config = golden.read("transformers_swin")
    reference = transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=config["img_size"],
            embed_dim=config["embed_dim"],
            depths=config["depths"],
            num_heads=config["num_heads"],
            window_size=config["window_size"],
            num_labels=config["num_classes"],
        )
    ).eval()
    return reference


# 34 x 38, 17 x 19, 9 x 10 and 5 x 5 positions in the stages; then wider than high, with a
# last map of two windows by four; then sizes that neither 4 nor 2 divides.
@pytest.mark.filterwarnings("ignore:The first images have negative pixels")
@pytest.mark.parametrize("size", [(136, 152), (160, 416), (150, 205)])
def test_any_size_equals_the_reference(size):
    from keras_spm import to_torch_state_dict

    model = golden.classifier("transformers_swin")
    load_torch_weights(model, golden.state("transformers_swin"))
    reference = _reference()
    state = to_torch_state_dict(model, "transformers_5")
    reference.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    with torch.no_grad():
        expected = reference(torch.tensor(images).permute(0, 3, 1, 2)).logits
    assert difference(model.predict(images * 255, verbose=0), expected) <= 1e-5


@pytest.mark.parametrize(
    "check",
    [
        *("check_interface", "check_layer_groups", "check_sizes", "check_channels_first"),
        *("check_config_round_trip", "check_keras_round_trip"),
    ],
)
@pytest.mark.only("torch")
def test_pyramid_norms(check, tmp_path):
    """The output does not need the norms of the other levels, but they are part of the model."""

    def build(**arguments):
        return golden.two_stage_backbone("timm_swin", pyramid_norms=True, **arguments)

    arguments = [tmp_path] if check == "check_keras_round_trip" else []
    getattr(contract, check)(build, *arguments)
    if check == "check_interface":
        model, plain = randomize(build()), randomize(golden.two_stage_backbone("timm_swin"))
        for variable in plain.weights:
            if not variable.path.startswith("norm"):
                variable.assign(next(v for v in model.weights if v.path == variable.path))
        images = contract.images(1, 64, 64)
        maps, expected = (keras.Model(m.input, m.pyramid_outputs)(images) for m in (model, plain))
        for level, each in expected.items():
            norm = model.get_layer(f"norm_{level}")
            assert difference(maps[level], norm(each)) <= 1e-5
        model.freeze(1)
        frozen = {variable.path for variable in model.non_trainable_variables}
        assert {"norm_P2/gamma", "norm_P2/beta"} <= frozen and "norm_P3/gamma" not in frozen
