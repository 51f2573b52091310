# %% [markdown]
# # Add a family or a task
#
# Subclasses register themselves when they are defined, also in your own files. Saving, presets,
# recipes and commands then find them by name.
#
# | to add | define |
# | --- | --- |
# | a backbone | a subclass of `keras_spm.backbones.PyramidBackbone` |
# | weight layouts of a backbone or head | `keras_spm.converters.register_layouts("ClassName", layouts)` |
# | a head | a subclass of `keras_spm.heads.Head`, passed to a task |
# | a task | a subclass of `keras_spm.tasks.ImageTask` |
# | a data format | a function decorated with `@keras_spm.data.register_reader(task, name, splits)` |
# | a kind of recipe | a subclass of `keras_spm.trainer.Recipe` |
#
# ## A backbone
#
# A backbone is a stem of stride 4 and stages that halve the map. Its constructor passes them to
# `PyramidBackbone`, with a dict of its own arguments.

# %% tags=["parameters"] smoke={"epochs": 1, "batch_size": 600}
epochs = 5
batch_size = 64

# %%
import pathlib

import keras
import numpy as np

import keras_spm
from keras_spm import cli


class ConvNet(keras_spm.backbones.PyramidBackbone):
    presets = {"small": {"dims": (16, 32, 64, 128)}}
    preset_prefix = "conv_net_"

    def __init__(self, dims, drop_path_rate=0.0, dtype=None, **kwargs):
        def conv(dim, size, strides, name):
            return keras.layers.Conv2D(
                dim, size, strides, "same", activation="gelu", dtype=dtype, name=name
            )

        stages = [conv(dim, 3, 1 + (n > 0), f"stage{n + 1}") for n, dim in enumerate(dims)]
        stem = conv(dims[0], 4, 4, "stem")
        config = {"dims": dims, "drop_path_rate": drop_path_rate}
        super().__init__(stem, stages, config, dtype=dtype, **kwargs)


backbone = ConvNet.from_preset("small", load_weights=False)
print({level: maps.shape for level, maps in backbone.pyramid_outputs.items()})
print("conv_net_small" in keras_spm.list_presets())

# %% [markdown]
# It works in every task, is saved and loaded, and recipes find it by its name. (Recipes set
# `drop_path_rate`, so the constructor accepts it.)

# %%
recipe = pathlib.Path("classification_conv_net.py")
recipe.write_text(
    f"""
preset = "conv_net_small"
dataset = "digits"
epochs = {epochs}
batch_size = {batch_size}
learning_rate = 1e-3
warmup_epochs = 0
"""
)
cli.main(["train", str(recipe), "--output", "runs/conv_net"])

# %% [markdown]
# In a terminal, the file with the class is imported first: `keras-spm train
# classification_conv_net.py --import conv_net.py`; so do `evaluate`, `predict`, `export` and `demo`.
#
# ## Weight layouts
#
# A `Layout` maps the names of a code base to those of the model, one rule for each kind of layer.
# `{stage}` and `{stage_index}` count from 1 and from 0.

# %%
from keras_spm.converters import register_layouts
from keras_spm.weights.key_mapping import Layout, affine
from keras_spm.weights.transforms import CONVOLUTION

rules = [*affine("stem", "features.stem", CONVOLUTION)]
rules += affine("stage{stage}", "features.{stage_index}", CONVOLUTION)
register_layouts("ConvNet", (Layout("own", tuple(rules)),))
state = keras_spm.to_torch_state_dict(backbone, "own")
print({name: array.shape for name, array in list(state.items())[:4]})
print(keras_spm.load_torch_weights(ConvNet.from_preset("small", load_weights=False), state))

# %% [markdown]
# ## A task
#
# A task builds the graph from raw images to outputs, and compiles itself with defaults. Commands
# and recipes use `predict_images`, `predict_record`, `draw` and `evaluate_on`, which have defaults.

# %%
from keras_spm.layers import ImageNormalization


class BrightnessRegressor(keras_spm.tasks.ImageTask):
    def __init__(self, backbone, **kwargs):
        images = keras.Input(backbone.image_shape, name="images")
        normalized = ImageNormalization(dtype=backbone.dtype_policy, name="normalization")(images)
        pooled = keras.Model(backbone.input, backbone.pooled_output)(normalized)
        outputs = keras.layers.Dense(1, dtype="float32", name="head")(pooled)
        super().__init__(images, outputs, backbone, {}, **kwargs)
        self.compile("adam", "mse")

    def evaluate_on(self, examples, class_names=None, batch_size=8):
        found = self.predict_images([example["image"] for example in examples])
        truth = [np.mean(example["image"]) / 255 for example in examples]
        return {"error": float(np.abs(np.ravel(found) - truth).mean())}


model = BrightnessRegressor(ConvNet.from_preset("small", load_weights=False))
model.save("brightness.keras")
print(type(keras.saving.load_model("brightness.keras")).__name__)

# %% [markdown]
# ## In this package
#
# The same classes are in files of the package: `CONTRIBUTING.md` lists what to write and what to
# change for each kind. `tests/test_toy_family.py` and `tests/test_toy_task.py` are complete examples
# with recipes, and `tests/contract.py` tests every backbone and task for the same properties.
