"""ADE20K: Semantic FPN, 40,000 steps, with the paper's settings.

Command:  keras-spm train segmentation_ade20k --set data_folder=/data/ADEChallengeData2016
          The folder is that of the benchmark. `scene_parse150` of TensorFlow Datasets has other
          classes (100 kinds of objects), so its results are not comparable.
Hardware: 8 accelerators in the paper
Result:   not measured here
"""

# Model
preset: str = "pvt_v2_spm_b1"
load_weights: bool = True
merging: str = "spm"
drop_path_rate: float = 0.1
pyramid_channels: int = 256
head_channels: int = 128

# Data
dataset: str = "ade20k"
data_folder: str = ""
image_size: int = 512
test_min_size: int = 512
test_max_size: int = 2048
min_scale: float = 0.5
max_scale: float = 2.0
flip: float = 0.5
color_jitter: bool = True

# Optimization
epochs: int = 10
steps_per_epoch: int = 4000
batch_size: int = 32
learning_rate: float = 2e-4
schedule: str = "polynomial"
warmup_steps: int = 0
weight_decay: float = 1e-4
seed: int = 0
checkpoint_steps: int = 1000
