"""A user's own task and its recipe: predicting the brightness of images."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import cli
from keras_spm.layers import ImageNormalization
from keras_spm.tasks import ImageTask
from keras_spm.tasks.graph import connect_backbone
from keras_spm.trainer import Recipe, Setup
from tests import contract, golden
from tests.helpers import check_equal, random_array, randomize

pytestmark = pytest.mark.only("torch")


class ToyRegressor(ImageTask):
    def __init__(self, backbone, **kwargs):
        normalization = ImageNormalization(
            data_format=backbone.data_format, dtype=backbone.dtype_policy, name="normalization"
        )
        images = keras.Input(backbone.image_shape, name="images")
        _, features = connect_backbone(backbone, normalization(images))
        outputs = keras.layers.Dense(1, dtype="float32", name="head")(features)
        super().__init__(images, outputs, backbone, {}, **kwargs)
        self.compile("adam", "mse")

    def evaluate_on(self, examples, class_names=None, batch_size=8):
        found = self.predict_images([example["image"] for example in examples])
        truth = [example["brightness"] for example in examples]
        return {"error": float(np.abs(np.ravel(found) - truth).mean())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrightnessRecipe(Recipe):
    kind = "brightness"
    task = ToyRegressor
    default = "brightness_noise"

    def setup(self):
        backbone = keras_spm.backbones.PyramidBackbone.from_preset(self.preset, load_weights=False)
        images = np.random.default_rng(self.seed).integers(0, 256, (4, 32, 32, 3)).astype("float32")
        batch = (images, images.mean((1, 2, 3)) / 255)
        return Setup(ToyRegressor(backbone), [batch] * 2, 2, validation=batch)

    def test_examples(self):
        return [{"image": np.full((32, 32, 3), 51, "uint8"), "brightness": 0.2}] * 3, None


def build(**arguments):
    return ToyRegressor(golden.short_backbone("pvt_v2", **arguments))


def test_contract(tmp_path):
    contract.check_keras_round_trip(build, tmp_path)
    for name in contract.ANY_TASK:
        getattr(contract, name)(build)


def test_presets(tmp_path):
    model = randomize(build())
    model.save_to_preset(tmp_path / "task")
    for again in (cls.from_preset(tmp_path / "task") for cls in (ToyRegressor, ImageTask)):
        assert type(again) is ToyRegressor
        check_equal(model, again, random_array(1, 32, 32, 3))


def test_commands(tmp_path, capsys):
    lines = "preset = 'pvt_v2_mini'\nepochs = 1\nbatch_size = 4\nlearning_rate = 1e-3\n"
    (tmp_path / "brightness_noise.py").write_text(lines)
    keras.utils.save_img(tmp_path / "image.png", np.zeros((32, 32, 3)))
    run = str(tmp_path / "run")
    assert cli.main(["train", str(tmp_path / "brightness_noise.py"), "--output", run]) == 0
    assert cli.main(["evaluate", run]) == 0 and "error" in capsys.readouterr().out
    assert cli.main(["predict", run, str(tmp_path / "image.png"), "--output", run + "-out"]) == 0
