"""Linear probe: only the head is trained, on the features of a frozen backbone.

Command:  keras-spm train classification_linear_probe --set data_folder=photos
          The data are given as for `classification_folder`.
Hardware: 2 CPU cores for a few hundred photos, an accelerator for more
Result:   depends on the photos and on the weights; lower than that of `classification_folder`
"""

# Model
preset: str = "pvt_v2_b1"
load_weights: bool = True
frozen_stages: int = 4
drop_path_rate: float = 0.0

# Data
dataset: str = "folder"
data_folder: str = ""
invalid: str = "raise"
validation_share: float = 0.2
class_weights: str = "none"
image_size: int = 224
crop_pct: float = 0.875

# Augmentation
crop_scale: float = 0.3
flip: float = 0.5

# Optimization
epochs: int = 20
batch_size: int = 32
learning_rate: float = 5e-3
schedule: str = "cosine_by_step"
warmup_epochs: int = 0
weight_decay: float = 0.0
seed: int = 0
