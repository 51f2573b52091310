"""Scenes of handwritten digits with boxes: RetinaNet from random weights.

Command:  keras-spm train detection_digit_scenes
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
num_convs: int = 2
anchor_scale: float = 4.0
max_detections: int = 100

# Data
dataset: str = "digit_scenes"
data_folder: str = ""
min_size: int = 128
max_size: int = 128
max_objects: int = 100
flip: float = 0.0

# Optimization
epochs: int = 6
steps_per_epoch: int = 400
batch_size: int = 8
box_loss: str = "generalized_iou"
learning_rate: float = 1e-3
schedule: str = "cosine"
warmup_steps: int = 400
weight_decay: float = 0.05
seed: int = 0
