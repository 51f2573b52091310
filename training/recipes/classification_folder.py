"""Your own photos, one folder per class: fine-tuning from published weights.

Command:  keras-spm train classification --data photos
          A fifth of the photos is held out for validation, unless the folder has the splits
          `train` and `val`. `--data photos.csv` takes a CSV file with the columns `path` and
          `label`, or `labels` for several, as in `water|bird`. Files that cannot be read are left
          out and reported; `--set invalid=raise` stops instead.
Hardware: 2 CPU cores for a few hundred photos, an accelerator for more
Result:   depends on the photos and on the weights
"""

# Model
preset: str = "pvt_v2_b1"
load_weights: bool = True
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
ema_decay: float = 0.0
seed: int = 0
