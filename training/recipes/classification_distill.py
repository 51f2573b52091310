"""ImageNet-1K with Stepwise Patch Merging from a published network, its teacher.

Command:  keras-spm train classification_distill --data /data/imagenet2012/5.1.0
          The mergings of the SPM network first learn to replace those of the published network,
          see `keras_spm.transplant`. The whole network is then trained on the labels and on the
          logits and the maps of the published network. For folders of JPEG files, add
          `--set dataset=folder --set verify_images=false`.
Hardware: one accelerator; see `classification_imagenet` for the batch size
Result:   not measured. These are the settings with which SPM weights of b1 would be published:
          the augmentation of the official code without random erasing, a third of its learning
          rate, a tenth of its epochs
"""

# Model
preset: str = "pvt_v2_spm_b1"
load_weights: bool = True
transplant_images: int = 2048
transplant_steps: int = 2000
drop_path_rate: float = 0.1
dtype_policy: str = "mixed_bfloat16"

# Teacher
distill_from: str = "pvt_v2_b1"
distill_weight: float = 0.5
distill_temperature: float = 1.0
distill_maps_weight: float = 0.5

# Data
dataset: str = "imagenet2012"
data_folder: str = ""
image_size: int = 224
crop_pct: float = 0.875

# Augmentation
crop_scale: float = 0.25
flip: float = 0.5
randaugment_magnitude: float = 9.0
mixup: float = 0.2
cutmix: float = 1.0

# Optimization
epochs: int = 30
batch_size: int = 128
gradient_accumulation_steps: int = 8
learning_rate: float = 3e-4
layer_decay: float = 0.85
schedule: str = "cosine_by_step"
warmup_epochs: int = 1
warmup_learning_rate: float = 1e-6
min_learning_rate: float = 1e-6
weight_decay: float = 0.05
epsilon: float = 1e-8
seed: int = 0
checkpoint_steps: int = 1000
