"""Your own images with segmentation maps, in any common format: fine-tuning from published weights.

Command:  keras-spm train segmentation --data roads
          The format is recognized: two folders of images and maps with the same names, Pascal
          VOC, ADE20K or Cityscapes. Class names are read from `classes.txt`, or given with `--set
          class_names=road,field`. `--set label_map=255=1` maps stored values to classes. A fifth
          of the images is held out for validation, unless the folder has splits.
Hardware: an accelerator; 2 CPU cores for a few hundred small images
Result:   depends on the images and on the weights
"""

# Model
preset: str = "pvt_v2_b1"
load_weights: bool = True
merging: str = "default"
drop_path_rate: float = 0.1
pyramid_channels: int = 256
head_channels: int = 128

# Data
dataset: str = "auto"
data_folder: str = ""
invalid: str = "drop"
validation_share: float = 0.2
image_size: int = 512
test_min_size: int = 512
test_max_size: int = 2048
min_scale: float = 0.5
max_scale: float = 2.0
flip: float = 0.5
color_jitter: bool = True

# Optimization
epochs: int = 50
steps_per_epoch: int = 0
batch_size: int = 8
learning_rate: float = 2e-4
schedule: str = "polynomial"
warmup_steps: int = 100
weight_decay: float = 1e-4
global_clipnorm: float = 5.0
seed: int = 0
