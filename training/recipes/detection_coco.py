"""COCO 2017: RetinaNet, 12 epochs, with the paper's settings.

Command:  keras-spm train detection_coco --set data_folder=/data/coco
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
num_convs: int = 4
anchor_scale: float = 4.0
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
box_loss: str = "l1"
learning_rate: float = 1e-4
schedule: str = "steps"
warmup_steps: int = 500
weight_decay: float = 1e-4
seed: int = 0
checkpoint_steps: int = 1000
