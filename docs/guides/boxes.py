# %% [markdown]
# # My boxes
#
# Images with boxes become a detector. The images here are scenes of handwritten digits, made on the
# spot and written in COCO's format; put your own folder in their place.

# %% tags=["parameters"] smoke={"scenes": 4, "epochs": 1, "steps": 1, "side": 32}
scenes = 300
epochs = 5
steps = 100  # in each epoch
side = 96  # pixels

# %%
import json
import pathlib

import keras
from PIL import Image

import keras_spm
from keras_spm import cli

for split, count in (("train", scenes), ("val", max(4, scenes // 10))):
    # `DigitScenes` calls it validation.
    data = keras_spm.data.DigitScenes("validation" if split == "val" else split, count, side)
    folder = pathlib.Path("scenes", split)
    folder.mkdir(parents=True)
    contents = {"images": [], "annotations": []}
    contents["categories"] = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
    for number in range(count):
        scene, name = data[number], f"{number:04}.png"
        Image.fromarray(scene["image"]).save(folder / name)
        contents["images"].append({"id": number, "file_name": name, "width": side, "height": side})
        for (left, top, right, bottom), label in zip(
            scene["boxes"].tolist(), scene["labels"].tolist(), strict=True
        ):
            contents["annotations"].append(
                {
                    "id": len(contents["annotations"]),
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    (folder / "_annotations.coco.json").write_text(json.dumps(contents))

# %% [markdown]
# ## Look at the data
#
# COCO, YOLO, Pascal VOC and labelme are recognized. Invalid boxes are reported with their ids, and
# left out; `--set invalid=raise` stops instead.

# %%
cli.main(["data", "scenes", "--task", "detection"])

# %% [markdown]
# ## Train
#
# For photos, `keras-spm train detection --data scenes` is enough: it fine-tunes a RetinaNet on
# `pvt_v2_b1` from published weights, at a shorter side of 512 pixels. Here `--set` chooses a small
# network from random weights. The training is short: what a longer one of
# the recipe `detection_digit_scenes` reaches is in [results](../results.md).

# %%
settings = {
    "preset": "pvt_v2_spm_mini",
    "load_weights": "false",
    "merging": "spm",
    "drop_path_rate": 0,
    "pyramid_channels": 64,
    "head_channels": 64,
    "num_convs": 2,
    "min_size": side,
    "max_size": side,
    "flip": 0,
    "box_loss": "generalized_iou",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "epochs": epochs,
    "steps_per_epoch": steps,
    "batch_size": 4 if scenes < 8 else 8,
}
arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
cli.main(["train", "detection", "--data", "scenes", "--output", "runs/boxes", *arguments])

# %% [markdown]
# AP is COCO's average precision, computed by pycocotools. `metrics_per_class.csv` in the run folder
# has it for each class. The first images of the validation split, with their boxes and with those
# of the model:

# %%
keras.utils.load_img("runs/boxes/predictions.png")

# %% [markdown]
# ## Use the model

# %%
model = keras.saving.load_model("runs/boxes/best.keras")
(found,) = model.detect(["scenes/val/0000.png"])
for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
    if score > 0.3:
        print(model.class_names[label], f"{score:.2f}", box.round().tolist())

# %% [markdown]
# Boxes are left, top, right and bottom in pixels of the file. In a terminal:
#
# ```
# keras-spm predict runs/boxes holiday/ --output pictures
# keras-spm predict runs/boxes holiday/ --format coco --output results
# keras-spm predict runs/boxes aerial/ --tile 512 --overlap 0.25
# ```
#
# ## The same in Python
#
# Images of one size can be an array. Boxes of a batch are padded to the same number, with label -1.

# %%
backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
head = keras_spm.heads.RetinaNet(pyramid_channels=32, channels=32, num_convs=1)
model = keras_spm.ObjectDetector(backbone, num_classes=10, detector=head)
batching = keras_spm.data.DetectionBatching(
    keras_spm.data.ImageBatching(min_size=side, max_size=side), max_objects=8
)
train = keras_spm.data.read_detection("scenes").train
images, targets = batching([train[number] for number in range(4)])
model.fit(images, targets, verbose=0)
print(images.shape, {name: value.shape for name, value in targets.items()})

# %% [markdown]
# `heads.FasterRCNN()` is a two-stage detector. `evaluate`, and validation in `fit`, compute average
# precision.
