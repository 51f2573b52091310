"""Your own photos, one folder a class: fine-tuning from published weights.

Command:  keras-spm train classification_folder --set data_folder=photos
          A fifth of the photos is held out, unless the folder has parts of its own, `train`
          and `val`. `--set dataset=table --set data_folder=photos.csv` takes a CSV file with
          the columns `path` and `label`, or `labels` for several, as in `water|bird`.
          `--set invalid=drop` leaves out files that cannot be read, instead of naming them.
Hardware: 2 CPU cores for some hundred photos, an accelerator for more
Result:   depends on the photos and on the weights, which come from ImageNet-1K; none is promised.
          What the code itself does is measured on digits, in `classification_digits`.
"""

# Model
preset: str = "pvt_v2_b1"
load_weights: bool = True
drop_path_rate: float = 0.1

# Data
dataset: str = "folder"
data_folder: str = ""
invalid: str = "raise"
validation_share: float = 0.2
class_weights: str = "none"
image_size: int = 224
crop_fraction: float = 0.875

# Augmentation
least_area: float = 0.3
flip: float = 0.5
magnitude: float = 5.0
label_smoothing: float = 0.1

# Optimisation
epochs: int = 20
batch_size: int = 32
learning_rate: float = 1e-3
layer_decay: float = 0.75
schedule: str = "cosine_by_step"
warmup_epochs: int = 2
weight_decay: float = 0.05
clip_norm: float = 5.0
average: float = 0.0
seed: int = 0
