# %% [markdown]
# # SPM in a pretrained network
#
# The authors of Stepwise Patch Merging have published code but no weights.
# `PVTv2SPM.from_preset("b1")` loads everything that it shares with the original network; its three
# mergings are random, and a network with three random layers in it has lost what it had learned.
# This page shows two better starts. The pretrained network is one that is trained here, on
# handwritten digits, and saved as a preset folder.

# %% tags=["parameters"] smoke={"count": 32, "epochs": 1, "steps": 1}
count = 1257  # images to train on
epochs = 8
steps = 50

# %%
import warnings

import keras
import numpy as np

import keras_spm

keras.utils.set_random_seed(0)
(images, labels), _, (test_images, test_labels), _ = keras_spm.data.load_digits()
images, labels = images[:count], labels[:count]


def accuracy(model):
    return np.mean(model.predict(test_images, verbose=0).argmax(1) == test_labels)


backbone = keras_spm.PVTv2.from_preset("mini", load_weights=False)
teacher = keras_spm.ImageClassifier(backbone, num_classes=10)
teacher.optimizer.learning_rate = 1e-3
teacher.fit(images, labels, batch_size=32, epochs=epochs, verbose=0)
teacher.save_to_preset("pretrained")
print(f"original network: {accuracy(teacher):.1%}")

# %% [markdown]
# ## Random mergings
#
# A warning lists the layers that are random; it is left out here.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    model = keras_spm.ImageClassifier.from_preset("pretrained", merging="spm")
print(f"with random mergings: {accuracy(model):.1%}")

# %% [markdown]
# ## Transplant
#
# From a few hundred images without labels, the new mergings learn to give the maps of the original
# ones. They are initialized in closed form, then each is trained on the inputs and outputs of the
# original one, and then all are trained end to end. The report has the explained variance of each
# merging on held-out images after each phase.

# %%
report = keras_spm.transplant(model, images[:256], teacher, steps=steps, verbose=False)
print(report)
print(f"with transplanted mergings: {accuracy(model):.1%}, without a label")

# %% [markdown]
# With published weights, this is one line. The images are an array, a folder, or any data set that
# `fit` takes:
#
# ```python
# backbone = keras_spm.PVTv2SPM.from_preset("b1", transplant="photos")
# ```
#
# `keras-spm train classification_transplant --data photos` transplants and fine-tunes. `python
# zoo/port.py pvt_v2_spm_b1 FOLDER --transplant photos` writes a preset folder whose card has the
# explained variance.
#
# ## Gate
#
# `merging="default+spm"` keeps the original merging and adds Stepwise Patch Merging times a vector
# that is zero at first, so the network is exactly the original one before training (on JAX,
# compiled, up to rounding). The optimizers of this package train the vector at 30 times the learning
# rate, `gate_multiplier`. The original merging can be faded out and removed:

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    gated = keras_spm.ImageClassifier.from_preset("pretrained", merging="default+spm")
print(f"before training: {accuracy(gated):.1%}")
fade_out = keras_spm.callbacks.FadeOutDefaultMerging(epochs=max(1, epochs // 4))
fitting = dict(batch_size=32, epochs=max(2, epochs // 2), callbacks=[fade_out], verbose=0)
gated.fit(images, labels, **fitting)
alone = keras_spm.spm_only(gated)
print(f"after training, with Stepwise Patch Merging alone: {accuracy(alone):.1%}")

# %% [markdown]
# With published weights: `keras_spm.PVTv2.from_preset("b1", merging="default+spm")`.
#
# ## Ablation
#
# `merging="msa"` uses only Multi-Scale Aggregation, `"gle"` only Guided Local Enhancement, and
# `"default"` the merging of the family. `model.distill(teacher)` trains a classifier with the logits
# and maps of another one.
