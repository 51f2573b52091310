"""Your own images with masks of objects, in any common format: fine-tuning from published weights.

Command:  keras-spm train instances --data photos
          The format is recognized: COCO, YOLO with polygons, Pascal VOC or labelme. A fifth of
          the images is held out for validation, unless the folder has splits. Objects without a
          mask and other invalid ones are left out and reported; `--set invalid=raise` stops
          instead.
Hardware: an accelerator; 2 CPU cores for a few hundred small images
Result:   depends on the images and on the weights
"""

# Model
preset: str = "pvt_v2_b1"
load_weights: bool = True
merging: str = "default"
drop_path_rate: float = 0.1
frozen_stages: int = 0
pyramid_channels: int = 256
head_channels: int = 256
box_head_channels: int = 1024
max_proposals: int = 1000
max_detections: int = 100

# Data
dataset: str = "auto"
data_folder: str = ""
invalid: str = "drop"
validation_share: float = 0.2
min_size: int = 512
max_size: int = 853
flip: float = 0.5

# Optimization
epochs: int = 30
steps_per_epoch: int = 0
batch_size: int = 4
learning_rate: float = 2e-4
schedule: str = "cosine"
warmup_steps: int = 200
weight_decay: float = 1e-4
global_clipnorm: float = 5.0
seed: int = 0
