"""Scenes of handwritten digits with segmentation maps: Semantic FPN from random weights.

Command:  keras-spm train segmentation_digit_scenes
Hardware: 2 CPU cores, float32, seed 0
Result:   in training/results.csv
"""

# Model
preset: str = "pvt_v2_spm_mini"
load_weights: bool = False
merging: str = "spm"
drop_path_rate: float = 0.05
pyramid_channels: int = 64
head_channels: int = 64

# Data
dataset: str = "digit_scenes"
data_folder: str = ""
image_size: int = 128
test_min_size: int = 128
test_max_size: int = 128
min_scale: float = 1.0
max_scale: float = 1.0
flip: float = 0.0
color_jitter: bool = False

# Optimization
epochs: int = 8
steps_per_epoch: int = 400
batch_size: int = 8
learning_rate: float = 3e-3
schedule: str = "cosine"
warmup_steps: int = 400
weight_decay: float = 0.05
seed: int = 0
