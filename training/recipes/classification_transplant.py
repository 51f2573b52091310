"""Your own photos with Stepwise Patch Merging, which first learns to replace the original merging.

Command:  keras-spm train classification_transplant --data photos
          The data are given as for `classification_folder`. Before the training, the mergings of
          the SPM network, for which no weights are published, learn from 512 of the training
          photos, without their labels, to give the maps of the original network, see
          `keras_spm.transplant`. They then have the learning rate of the head.
          `--set preset=pvt_v2_b1 --set merging=default+spm --set transplant_images=0` adds Stepwise
          Patch Merging behind a gate instead, which starts with exactly the original network.
Hardware: 2 CPU cores for a few hundred photos, an accelerator for more
Result:   depends on the photos and on the weights; training/transplanting.csv has accuracies
          before, during and after the training, from networks trained on digits and CIFAR-10
"""

# Model
preset: str = "pvt_v2_spm_b1"
load_weights: bool = True
transplant_images: int = 512
drop_path_rate: float = 0.1

# Data
dataset: str = "auto"
data_folder: str = ""
invalid: str = "drop"
validation_share: float = 0.2
class_weights: str = "none"
image_size: int = 224
crop_pct: float = 0.875

# Augmentation
crop_scale: float = 0.3
flip: float = 0.5
randaugment_magnitude: float = 5.0
label_smoothing: float = 0.1

# Optimization
epochs: int = 20
batch_size: int = 32
learning_rate: float = 1e-3
layer_decay: float = 0.75
schedule: str = "cosine_by_step"
warmup_epochs: int = 2
weight_decay: float = 0.05
global_clipnorm: float = 5.0
seed: int = 0
