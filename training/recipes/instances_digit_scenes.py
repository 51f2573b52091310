"""Scenes of handwritten digits with masks: Mask R-CNN from random weights.

Command:  keras-spm train instances_digit_scenes
Hardware: 2 CPU cores, float32, seed 0
Result:   in training/results.csv
"""

# Model
preset: str = "pvt_v2_spm_mini"
load_weights: bool = False
merging: str = "spm"
drop_path_rate: float = 0.0
frozen_stages: int = 0
pyramid_channels: int = 64
head_channels: int = 64
box_head_channels: int = 256
max_proposals: int = 200
num_samples: int = 64
max_detections: int = 20

# Data
dataset: str = "digit_scenes"
data_folder: str = ""
min_size: int = 128
max_size: int = 128
max_objects: int = 7
flip: float = 0.0

# Optimization
epochs: int = 7
steps_per_epoch: int = 200
batch_size: int = 8
learning_rate: float = 1e-3
schedule: str = "cosine"
warmup_steps: int = 200
weight_decay: float = 0.05
global_clipnorm: float = 5.0
seed: int = 0
