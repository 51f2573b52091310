"""A user's own backbone family: three stages, no merging argument, another block."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm import cli
from keras_spm import layers
from keras_spm.backbones import PyramidBackbone
from keras_spm.converters import register_layouts
from keras_spm.converters.pvt import embedding
from keras_spm.weights.key_mapping import Layout
from keras_spm.weights.key_mapping import affine
from keras_spm.weights.transforms import LINEAR
from tests import contract
from tests.helpers import difference
from tests.helpers import randomize


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
        def embed(index, patch_size, name):
            return layers.PatchEmbedding(dims[index], patch_size, dtype=dtype, name=name)

        stages = [
            layers.Stage(
                [ToyBlock(dtype=dtype, name="block1")],
                embed(index, 2, "merging") if index else None,
                dtype=dtype,
                name=f"stage{index + 1}",
            )
            for index in range(3)
        ]
        config = {"dims": tuple(dims), "drop_path_rate": drop_path_rate}
        super().__init__(embed(0, 4, "stem"), stages, config, dtype=dtype, **kwargs)


EMBEDDINGS = (*embedding("stem", "stem", "conv", "norm"),)
EMBEDDINGS += (*embedding("stage{stage}/merging", "down{stage}", "conv", "norm"),)
BLOCKS = affine("stage{stage}/block1/dense", "blocks.{stage_index}", LINEAR)
register_layouts("ToyNet", (Layout("toy", (*EMBEDDINGS, *BLOCKS)),))


@pytest.mark.parametrize("check", contract.ANY_BACKBONE)
def test_contract(check, tmp_path):
    arguments = {"check_keras_round_trip": [tmp_path]}.get(check, [])
    getattr(contract, check)(lambda **own: ToyNet(**{"dims": (8, 8, 16), **own}), *arguments)


def test_presets_and_converters(tmp_path):
    model = randomize(ToyNet.from_preset("nano", load_weights=False))
    assert "toy_nano" in keras_spm.list_presets()
    model.save_to_preset(tmp_path / "toy")
    other = ToyNet.from_preset("nano", load_weights=False)
    keras_spm.load_torch_weights(other, keras_spm.to_torch_state_dict(model, "toy"))
    for again in other, *(cls.from_preset(tmp_path / "toy") for cls in (ToyNet, PyramidBackbone)):
        assert type(again) is ToyNet
        assert all(
            difference(*pair) == 0 for pair in zip(again.weights, model.weights, strict=True)
        )


def test_commands(tmp_path, capsys):
    recipe = {"preset": "toy_nano", "dataset": "digits", "epochs": 1, "batch_size": 600}
    recipe |= {"learning_rate": 1e-3, "warmup_epochs": 0}
    lines = "\n".join(f"{key} = {value!r}" for key, value in recipe.items())
    (tmp_path / "classification_toy.py").write_text(lines)
    Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(tmp_path / "digit.png")
    run = str(tmp_path / "run")
    assert cli.main(["train", str(tmp_path / "classification_toy.py"), "--output", run]) == 0
    assert cli.main(["evaluate", run]) == 0 and "accuracy" in capsys.readouterr().out
    assert cli.main(["predict", run, str(tmp_path / "digit.png")]) == 0
