"""ImageNet-1K from random weights: the official settings of PVT, PVT v2 and Swin.

Command:  keras-spm train classification_imagenet --set preset=pvt_v2_b2 \
              --set data_folder=/data/imagenet2012/5.1.0
          The folder is that of TensorFlow Datasets' `imagenet2012`, in array_record form.
          For folders of JPEG files, `train/n01440764/…` and `val/n01440764/…`, add
          `--set dataset=folder --set verify_images=false`.
Hardware: one accelerator; 8 batches of 128 are accumulated to the papers' 1,024 images per
          step. Fewer, larger batches are equivalent if they fit into the memory:
          `--set batch_size=512 --set gradient_accumulation_steps=2`.
Result:   not measured here. Official top-1 with these settings, in percent: PVT tiny 75.1,
          small 79.8, medium 81.2, large 81.7; PVT v2 b0 70.5, b1 78.7, b2_li 82.1, b2 82.0,
          b3 83.1, b4 83.6, b5 83.8; Swin tiny 81.2, small 83.2, base 83.5. The authors
          of Stepwise Patch Merging have not published weights.

The augmentation is that of the official code, not Keras's layers. Keras's RandAugment draws
its operations once per batch, at other magnitudes; its random erasing uses noise of which half
is black; its mixing draws one weight per image instead of one per batch. The official code's
color jitter has no effect, because RandAugment replaces it. There are two differences: noise
of random erasing is clipped to [0, 255], and the learning rate of PVT's epoch e is that of its
code's epoch e + 1, because the code uses the first learning rate twice.
"""

# Model
preset: str = "pvt_v2_spm_b1"
drop_path_rate: float = 0.1
dtype_policy: str = "mixed_bfloat16"

# Data
dataset: str = "imagenet2012"
data_folder: str = ""
image_size: int = 224
crop_pct: float = 0.875

# Augmentation
crop_scale: float = 0.08
flip: float = 0.5
randaugment_magnitude: float = 9.0
random_erasing: float = 0.25
mixup: float = 0.8
cutmix: float = 1.0
label_smoothing: float = 0.1
repeated_augmentation: int = 3

# Optimization
epochs: int = 300
batch_size: int = 128
gradient_accumulation_steps: int = 8
learning_rate: float = 1e-3
schedule: str = "cosine_by_epoch"
warmup_epochs: int = 5
warmup_learning_rate: float = 1e-6
min_learning_rate: float = 1e-5
weight_decay: float = 0.05
epsilon: float = 1e-8
seed: int = 0
checkpoint_steps: int = 1000

_DEEP = {"drop_path_rate": 0.3, "global_clipnorm": 1.0}
_SWIN = {
    "schedule": "cosine_by_step",
    "warmup_epochs": 20,
    "global_clipnorm": 5.0,
    "repeated_augmentation": 1,
}
# Presets with other values, with and without Stepwise Patch Merging.
variants = {
    preset: values
    for family, variant, values in (
        ("pvt", "medium", _DEEP),
        ("pvt", "large", _DEEP),
        ("pvt_v2", "b3", _DEEP),
        ("pvt_v2", "b4", _DEEP),
        ("pvt_v2", "b5", _DEEP),
        ("swin", "tiny", {**_SWIN, "drop_path_rate": 0.2}),
        ("swin", "small", {**_SWIN, "drop_path_rate": 0.3}),
        ("swin", "base", {**_SWIN, "drop_path_rate": 0.5}),
    )
    for preset in (f"{family}_{variant}", f"{family}_spm_{variant}")
}
