# %% [markdown]
# # My masks
#
# Images with a class for each pixel become a segmenter. This page is about segmentation maps; for a
# mask of each object, see [instances](instances.md). The images here are scenes of handwritten
# digits; put your own folder in their place.

# %% tags=["parameters"] smoke={"scenes": 4, "epochs": 1, "steps": 1, "side": 32}
scenes = 300
epochs = 4
steps = 80  # in each epoch
side = 96  # pixels

# %%
import pathlib

import keras
from PIL import Image

import keras_spm
from keras_spm import cli
from keras_spm.data.digit_scenes import CLASS_NAMES

for split, count in (("train", scenes), ("val", max(4, scenes // 10))):
    data = keras_spm.data.DigitScenes("validation" if split == "val" else split, count, side)
    for kind in ("images", "masks"):
        pathlib.Path("scenes", split, kind).mkdir(parents=True)
    for number in range(count):
        for kind, field in (("images", "image"), ("masks", "segmentation_map")):
            Image.fromarray(data[number][field]).save(f"scenes/{split}/{kind}/{number:04}.png")
pathlib.Path("scenes/classes.txt").write_text("\n".join(CLASS_NAMES))

# %% [markdown]
# ## Look at the data
#
# Each image has a PNG file of the same name, whose values are the classes; 255 is ignored. Two
# folders are enough, with or without splits; Pascal VOC, ADE20K and Cityscapes are recognized too.
# The names of the classes are in `classes.txt`, or `--set class_names=sky,road,tree`. For masks of 0
# and 255, add `--set label_map=255=1`.

# %%
cli.main(["data", "scenes", "--task", "segmentation"])

# %% [markdown]
# ## Train
#
# For photos, `keras-spm train segmentation --data scenes` is enough: Semantic FPN on `pvt_v2_b1`
# from published weights, on random crops of 512 pixels. Here `--set` chooses a small network from
# random weights. The training is short: what a longer one of
# the recipe `segmentation_digit_scenes` reaches is in [results](../results.md).

# %%
settings = {
    "preset": "pvt_v2_spm_mini",
    "load_weights": "false",
    "merging": "spm",
    "drop_path_rate": 0.05,
    "pyramid_channels": 64,
    "head_channels": 64,
    "image_size": side,
    "test_min_size": side,
    "test_max_size": side,
    "min_scale": 1,
    "max_scale": 1,
    "flip": 0,
    "color_jitter": "false",
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "weight_decay": 0.05,
    "epochs": epochs,
    "steps_per_epoch": steps,
    "batch_size": 4 if scenes < 8 else 8,
}
arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
cli.main(["train", "segmentation", "--data", "scenes", "--output", "runs/masks", *arguments])

# %% [markdown]
# Mean IoU is over the whole validation split, not the mean of batches. The first images, their
# maps, and those of the model:

# %%
keras.utils.load_img("runs/masks/predictions.png")

# %% [markdown]
# ## Use the model

# %%
model = keras.saving.load_model("runs/masks/best.keras")
(segmentation_map,) = model.segment(["scenes/val/images/0000.png"])
print(segmentation_map.shape, segmentation_map.dtype)

# %% [markdown]
# The map has the size of the file. In a terminal, `keras-spm predict runs/masks streets/ --output
# maps` writes PNG files; `--tile 512` predicts large images in windows.
#
# ## The same in Python

# %%
train = keras_spm.data.read_segmentation("scenes").train
images = [train[number]["image"] for number in range(4)]
images = keras.ops.stack([keras.utils.img_to_array(keras.utils.load_img(each)) for each in images])
maps = keras.ops.stack([train[number]["segmentation_map"] for number in range(4)])
backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
decoder = keras_spm.heads.SemanticFPN(pyramid_channels=32, channels=32)
model = keras_spm.SemanticSegmenter(backbone, num_classes=11, decoder=decoder)
model.fit(images, maps, verbose=0)
print(model.output_shape)

# %% [markdown]
# Other decoders are `heads.UPerNet()`, with an auxiliary head in training, and
# `heads.SegFormerHead()`. `fit` takes `class_weight` and `sample_weight`. Logits have the size of
# the image.
