"""Every model against the contract."""

import keras
import pytest

from tests import contract


def of(names):
    return pytest.mark.parametrize("name", names)


models = of(contract.MODELS)
backbones = of(contract.BACKBONES)
full = of([*contract.FULL, *contract.TASKS])
full_backbones = of(contract.FULL)
ON_TORCH = keras.config.backend() == "torch"
# Of numbers that depend on the layers alone.
every_task_on_one_backend = full if ON_TORCH else of(contract.FEW)


# Properties of the graph and the configuration, which do not depend on the backend.


@pytest.mark.only("torch")
@backbones
def test_interface(name):
    contract.check_interface(contract.MODELS[name])


@pytest.mark.only("torch")
@backbones
def test_layer_groups(name):
    contract.check_layer_groups(contract.MODELS[name])


@pytest.mark.only("torch")
@models
def test_config_round_trip(name):
    contract.check_config_round_trip(contract.MODELS[name])


# `trainable` is handled by each backend.


@of(["PVTSPM", "ImageClassifier", "SemanticSegmenter"])
def test_freezing(name):
    contract.check_freezing(contract.MODELS[name])


# Properties of the numbers.


# Tasks: tests/tasks/test_interoperability.py.
@of(contract.FEW)
def test_keras_round_trip(name, tmp_path):
    contract.check_keras_round_trip(contract.MODELS[name], tmp_path)


@pytest.mark.graph
@of(contract.COMPILED)
def test_eager_equals_compiled(name):
    contract.check_eager_equals_compiled(contract.MODELS[name])


@pytest.mark.release
@of(contract.COMPILED_FOR_RELEASE)
def test_eager_equals_compiled_for_release(name):
    contract.check_eager_equals_compiled(contract.MODELS[name], "inductor")


@every_task_on_one_backend
def test_mixed_bfloat16(name):
    contract.check_mixed_precision(contract.MODELS[name], "mixed_bfloat16", "bfloat16")


@pytest.mark.only("torch")
@of(["PVTv2SPM", "Swin"])
def test_mixed_float16(name):
    contract.check_mixed_precision(contract.MODELS[name], "mixed_float16", "float16")


@of(contract.MODELS if ON_TORCH else [*contract.FEW, "ObjectDetector", "SemanticSegmenter"])
def test_gradients(name):
    contract.check_gradients(contract.MODELS[name])


@full
def test_rows_are_independent(name):
    contract.check_rows_are_independent(contract.MODELS[name])


@full_backbones
def test_sizes(name):
    contract.check_sizes(contract.MODELS[name])


@full
def test_channels_first(name):
    contract.check_channels_first(contract.MODELS[name])


@of(contract.FUSED if ON_TORCH else ("PVTv2SPM", "ImageClassifier"))
def test_fusion(name, tmp_path):
    contract.check_fusion(contract.FUSED[name], tmp_path)


@of(contract.CHECKPOINTED)
def test_gradient_checkpointing(name):
    contract.check_gradient_checkpointing(contract.MODELS[name])
