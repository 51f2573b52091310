"""Every model against the contract."""

import pytest

from tests import contract

models = pytest.mark.parametrize("name", contract.MODELS)
backbones = pytest.mark.parametrize("name", contract.BACKBONES)


@backbones
def test_interface(name):
    contract.check_interface(contract.MODELS[name])


@models
def test_config_round_trip(name):
    contract.check_config_round_trip(contract.MODELS[name])


@models
def test_keras_round_trip(name, tmp_path):
    contract.check_keras_round_trip(contract.MODELS[name], tmp_path)


@pytest.mark.parametrize("name", contract.COMPILED)
def test_eager_equals_compiled(name):
    contract.check_eager_equals_compiled(contract.MODELS[name])


@models
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(name, dtype):
    contract.check_mixed_precision(contract.MODELS[name], f"mixed_{dtype}", dtype)


@models
def test_gradients(name):
    contract.check_gradients(contract.MODELS[name])


@models
def test_rows_are_independent(name):
    contract.check_rows_are_independent(contract.MODELS[name])


@backbones
def test_sizes(name):
    contract.check_sizes(contract.MODELS[name])


@backbones
def test_static_equals_dynamic(name):
    contract.check_static_equals_dynamic(contract.MODELS[name])


@models
def test_channels_first(name):
    contract.check_channels_first(contract.MODELS[name])


@models
def test_freezing(name):
    contract.check_freezing(contract.MODELS[name])


@pytest.mark.parametrize("name", contract.FUSED)
def test_fusion(name, tmp_path):
    contract.check_fusion(contract.FUSED[name], tmp_path)


@pytest.mark.parametrize("name", contract.CHECKPOINTED)
def test_gradient_checkpointing(name):
    contract.check_gradient_checkpointing(contract.MODELS[name])
