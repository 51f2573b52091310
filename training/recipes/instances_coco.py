"""COCO 2017: Mask R-CNN, 12 epochs, with the settings of PVT's authors.

Command:  keras-spm train instances_coco --set data_folder=/data/coco
Hardware: 8 accelerators in the paper
Result:   not measured here
"""

# Model
preset: str = "pvt_v2_spm_b1"
load_weights: bool = True
merging: str = "spm"
drop_path_rate: float = 0.1
frozen_stages: int = 0
pyramid_channels: int = 256
head_channels: int = 256
box_head_channels: int = 1024
max_proposals: int = 1000
max_detections: int = 100

# Data
dataset: str = "coco"
data_folder: str = ""
invalid: str = "drop"  # COCO's training split has two boxes without area.
min_size: int = 800
max_size: int = 1333
flip: float = 0.5

# Optimization
epochs: int = 12
steps_per_epoch: int = 7330
batch_size: int = 16
learning_rate: float = 2e-4
schedule: str = "steps"
warmup_steps: int = 500
weight_decay: float = 1e-4
seed: int = 0
checkpoint_steps: int = 1000
