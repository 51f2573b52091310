"""A user's own backbone family: three stages, no merging argument, another block."""

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import cli, layers
from keras_spm.backbones import PyramidBackbone
from keras_spm.converters import register_layouts
from keras_spm.converters.pvt import embedding
from keras_spm.weights.key_mapping import Layout, affine
from keras_spm.weights.transforms import LINEAR
from tests import contract
from tests.helpers import check_equal, random_array, randomize

pytestmark = pytest.mark.only("torch")


@keras.saving.register_keras_serializable("toy")
class ToyBlock(keras.layers.Layer):
    def build(self, input_shape):
        self.dense = layers.Dense(input_shape[-1], dtype=self.dtype_policy, name="dense")
        self.dense.build(input_shape)

    def call(self, inputs):
        return inputs + self.dense(keras.ops.tanh(inputs))


class ToyNet(PyramidBackbone):
    presets = {"nano": {"dims": (8, 8, 16)}}
    preset_prefix = "toy_"

    def __init__(self, dims, drop_path_rate=0.0, dtype=None, **kwargs):
        def embed(dim, patch_size, name):
            return layers.PatchEmbedding(dim, patch_size, dtype=dtype, name=name)

        mergings = [None, *(embed(dim, 2, "merging") for dim in dims[1:])]
        stages = [
            layers.Stage([ToyBlock(dtype=dtype, name="block1")], each, dtype=dtype, name=name)
            for each, name in zip(mergings, ("stage1", "stage2", "stage3"), strict=True)
        ]
        config = {"dims": dims, "drop_path_rate": drop_path_rate}
        super().__init__(embed(dims[0], 4, "stem"), stages, config, dtype=dtype, **kwargs)


KEYS = [*embedding("stem", "stem", "conv", "norm")]
KEYS += embedding("stage{stage}/merging", "down{stage}", "conv", "norm")
KEYS += affine("stage{stage}/block1/dense", "blocks.{stage_index}", LINEAR)
register_layouts("ToyNet", (Layout("toy", tuple(KEYS)),))


@pytest.mark.parametrize("check", contract.ANY_BACKBONE)
def test_contract(check, tmp_path):
    arguments = [tmp_path] if check == "check_keras_round_trip" else []
    getattr(contract, check)(lambda **own: ToyNet((8, 8, 16), **own), *arguments)


def test_presets_and_converters(tmp_path):
    model = randomize(ToyNet.from_preset("nano", load_weights=False))
    assert "toy_nano" in keras_spm.list_presets()
    model.save_to_preset(tmp_path / "toy")
    other = ToyNet.from_preset("nano", load_weights=False)
    keras_spm.load_torch_weights(other, keras_spm.to_torch_state_dict(model, "toy"))
    for again in other, *(cls.from_preset(tmp_path / "toy") for cls in (ToyNet, PyramidBackbone)):
        assert type(again) is ToyNet
        check_equal(model, again, random_array(1, 32, 32, 3))


def test_commands(tmp_path, capsys):
    (recipe := tmp_path / "classification_toy.py").write_text(
        "preset = 'toy_nano'\ndataset = 'digits'\nepochs = 1\nbatch_size = 600\n"
        "learning_rate = 1e-3\nwarmup_epochs = 0\n"
    )
    keras.utils.save_img(tmp_path / "digit.png", np.zeros((32, 32, 3)))
    assert cli.main(["train", str(recipe), "--output", (run := str(tmp_path / "run"))]) == 0
    assert cli.main(["evaluate", run]) == 0 and "accuracy" in capsys.readouterr().out
    assert cli.main(["predict", run, str(tmp_path / "digit.png")]) == 0
