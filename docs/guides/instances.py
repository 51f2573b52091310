# %% [markdown]
# # Instances
#
# Images with a mask for each object become an instance segmenter, Mask R-CNN. The images here are
# scenes of handwritten digits, made on the spot and written in COCO's format with masks as run
# lengths; put your own folder in their place.

# %% tags=["parameters"] smoke={"scenes": 4, "epochs": 1, "steps": 1, "side": 32, "shown": 1}
scenes = 300
epochs = 4
steps = 80  # in each epoch
side = 64  # pixels
shown = 4  # scenes

# %%
import json
import pathlib

import keras
import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

import keras_spm
from keras_spm import cli

for split, count in (("train", scenes), ("val", max(4, scenes // 10))):
    data = keras_spm.data.DigitScenes("validation" if split == "val" else split, count, side)
    folder = pathlib.Path("scenes", split)
    folder.mkdir(parents=True)
    contents = {"images": [], "annotations": []}
    contents["categories"] = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
    for number in range(count):
        scene, name = data[number], f"{number:04}.png"
        Image.fromarray(scene["image"]).save(folder / name)
        contents["images"].append({"id": number, "file_name": name, "width": side, "height": side})
        for mask, label in zip(scene["masks"], scene["labels"].tolist(), strict=True):
            encoded = run_lengths.encode(np.asfortranarray(mask, "uint8"))
            contents["annotations"].append(
                {
                    "id": len(contents["annotations"]),
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": run_lengths.toBbox(encoded).tolist(),
                    "segmentation": {**encoded, "counts": encoded["counts"].decode()},
                }
            )
    (folder / "_annotations.coco.json").write_text(json.dumps(contents))

# %% [markdown]
# ## Look at the data
#
# Polygons, run lengths, YOLO's and labelme's polygons and Pascal VOC's `SegmentationObject` are
# recognized.

# %%
cli.main(["data", "scenes", "--task", "instances"])

# %% [markdown]
# ## Train
#
# For photos, `keras-spm train instances --data scenes` is enough. Here `--set` chooses a small
# network from random weights. The training is short: what a longer one of
# the recipe `instances_digit_scenes` reaches is in [results](../results.md).

# %%
settings = {
    "preset": "pvt_v2_spm_mini",
    "load_weights": "false",
    "merging": "spm",
    "drop_path_rate": 0,
    "pyramid_channels": 64,
    "head_channels": 64,
    "box_head_channels": 256,
    "max_proposals": 100,
    "num_samples": 64,
    "max_detections": 20,
    "min_size": side,
    "max_size": side,
    "flip": 0,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "epochs": epochs,
    "steps_per_epoch": steps,
    "batch_size": 4 if scenes < 8 else 8,
}
arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
cli.main(["train", "instances", "--data", "scenes", "--output", "runs/instances", *arguments])

# %%
keras.utils.load_img("runs/instances/predictions.png")

# %% [markdown]
# ## Use the model

# %%
model = keras.saving.load_model("runs/instances/best.keras")
found = model.detect("scenes/val/0000.png")
print({name: value.shape for name, value in found.items()})

# %% [markdown]
# Scenes of the test split, which was neither trained on nor used to select the epoch:

# %%
pictures = []
for number in range(shown):
    scene = keras_spm.data.DigitScenes("test", shown, side)[number]["image"]
    model.draw([scene], "scene.png", predictions=model.predict_images([scene]))
    pictures.append(np.asarray(keras.utils.load_img("scene.png", target_size=(420, 450))))
Image.fromarray(np.concatenate(pictures, axis=1))

# %% [markdown]
# Masks are (objects, height, width) of the file. `keras-spm predict runs/instances holiday/ --format
# coco --output results` writes them as run lengths.
#
# ## The same in Python
#
# `model.fit(images, {"boxes": boxes, "labels": labels, "masks": masks})` takes arrays: boxes (batch,
# objects, 4), labels (batch, objects) with -1 for padding, masks (batch, objects, height, width).

# %%
backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
head = keras_spm.heads.MaskRCNN(
    pyramid_channels=32, rpn_channels=32, box_head_channels=64, mask_head_channels=32
)
model = keras_spm.InstanceSegmenter(backbone, num_classes=10, detector=head)
print(f"{model.count_params():,} parameters")
