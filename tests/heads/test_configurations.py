"""Heads as layers of anyone's model: made again from their configuration."""

import inspect

import keras
import pytest

from keras_spm import heads

# Every argument, each another than its default.
ARGUMENTS = {
    heads.Anchors: {"base_scale": 3.0, "scales_per_octave": 2, "aspect_ratios": (1.0, 3.0)},
    heads.FeaturePyramid: {"channels": 8, "extra_levels": 2},
    heads.RetinaNetHead: {"num_classes": 3, "anchors_per_position": 4, "channels": 8, "depth": 2},
    heads.SemanticFPNHead: {"num_classes": 3, "channels": 8, "dropout": 0.3, "fused": True},
}


@pytest.mark.only("torch")  # Nothing here depends on the backend.
@pytest.mark.parametrize("head", ARGUMENTS)
def test_a_head_comes_back(head):
    arguments = ARGUMENTS[head]
    parameters = inspect.signature(head).parameters
    assert parameters.keys() - {"kwargs"} == arguments.keys()
    layer = head(**arguments, name="head")
    assert {name: layer.get_config()[name] for name in arguments} == arguments
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is head and again.get_config() == layer.get_config()
