# %% [markdown]
# # My photos
#
# A folder of photos with a subfolder per class becomes a classifier. The photos here are
# handwritten digits that come with scikit-learn, so nothing is downloaded; put your own folder in
# their place. Your photos start from published weights, these digits from random ones.

# %% tags=["parameters"] smoke={"per_class": 6, "epochs": 1}
per_class = 125  # photos
epochs = 20

# %%
import pathlib

import keras
from PIL import Image

import keras_spm
from keras_spm import cli

images, labels = keras_spm.data.load_digits().train
for digit in range(10):
    folder = pathlib.Path(f"photos/{digit}")
    folder.mkdir(parents=True)
    for number, image in enumerate(images[labels == digit][:per_class]):
        Image.fromarray(image).save(folder / f"{number:03}.png")

# %% [markdown]
# ## Look at the data
#
# In a terminal, this is `keras-spm data photos`. It lists what was found, and files that cannot be
# read.

# %%
cli.main(["data", "photos", "--task", "classification"])

# %% [markdown]
# Other layouts are recognized too: folders `train`, `val` and `test` with a folder per class in
# each, and a CSV file with the columns `path` and `label`, or `labels` for several classes of an
# image (`water|bird`).
#
# ## Train
#
# For photos, `keras-spm train classification --data photos` is enough: it fine-tunes `pvt_v2_b1`
# from its published weights, at 224×224 pixels, and holds a fifth of the photos out for
# validation. `--set` changes any value of the recipe. Here it chooses a small network from random
# weights, for small images, and no horizontal flips, because digits have none.

# %%
settings = {
    "preset": "pvt_v2_spm_mini",
    "load_weights": "false",
    "image_size": 32,
    "crop_pct": 1,
    "crop_scale": 0.6,
    "flip": 0,
    "epochs": epochs,
}
arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
cli.main(["train", "classification", "--data", "photos", "--output", "runs/digits", *arguments])

# %% [markdown]
# `keras-spm train classification --data photos --dry-run` prints the plan (steps, memory, learning
# rates), draws the first batch and does not train. The same command resumes an interrupted
# training. The run folder has the best model, the metrics of each epoch and pictures:

# %%
keras.utils.load_img("runs/digits/confusion_matrix.png")

# %% [markdown]
# ## Use the model
#
# `best.keras` is an ordinary Keras file. It can be loaded on TensorFlow, JAX and PyTorch, and has
# the class names and the preprocessing.

# %%
model = keras.saving.load_model("runs/digits/best.keras")
for path in ("photos/3/000.png", "photos/8/001.png"):
    print(
        path, [(name, round(probability, 3)) for name, probability in model.classify(path, top=2)]
    )

# %% [markdown]
# In a terminal: `keras-spm predict runs/digits holiday/`. `--json` prints JSON, `--format csv
# --output results` writes a CSV file.
#
# ## What did it look at?

# %%
photo = Image.open("photos/3/000.png").resize((256, 256), Image.Resampling.BICUBIC)
heat = keras_spm.visualize.grad_cam(model, photo, "3", layer="stage2", path="heat.png")
keras.utils.load_img("heat.png")

# %% [markdown]
# ## The same in Python
#
# The recipe only calls the public API. With arrays in memory, three lines are enough: images have
# raw pixels in [0, 255], and the model normalizes them.

# %%
backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
model = keras_spm.ImageClassifier(backbone, num_classes=10)
history = model.fit(images[: 10 * per_class], labels[: 10 * per_class], epochs=1, verbose=0)
print(f"loss {history.history['loss'][-1]:.2f}")

# %% [markdown]
# `model.freeze(up_to_stage=2)` freezes the stem and the first two stages; `model.freeze()` freezes
# the backbone. For images with any number of classes, use `ImageClassifier(…, multi_label=True)`.
# `keras-spm evaluate runs/digits --data photos2` measures the model on other photos.
