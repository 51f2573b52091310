"""ADE20K: Semantic FPN, UPerNet or SegFormer, with the settings of their official codes.

Command:  keras-spm train segmentation_ade20k --set data_folder=/data/ADEChallengeData2016
          Semantic FPN: PVT's settings, 40,000 steps. `--set decoder=upernet`: Swin's, and
          `--set decoder=segformer`: SegFormer's, both 160,000 steps.
          The folder is that of the benchmark. `scene_parse150` of TensorFlow Datasets has other
          classes (100 kinds of objects), so its results are not comparable.
Hardware: 8 accelerators in the papers
Result:   not measured here

SegFormer's code trains the decoder at ten times the learning rate; here all layers have the same.
"""

# Model
preset: str = "pvt_v2_spm_b1"
load_weights: bool = True
merging: str = "spm"
drop_path_rate: float = 0.1
decoder: str = "semantic_fpn"
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

_LONG = {
    "epochs": 10,
    "steps_per_epoch": 16000,
    "batch_size": 16,
    "learning_rate": 6e-5,
    "schedule": "linear",
    "warmup_steps": 1500,
    "weight_decay": 0.01,
}
_SWIN = {"pyramid_norms": True, "drop_path_rate": 0.3}
_WIDE = {"head_channels": 768}
# Values that depend on the decoder, and those that depend on the preset.
variants = {
    "upernet": {"preset": "swin_spm_tiny", "head_channels": 512, **_LONG},
    "segformer": {"preset": "mit_spm_b1", "head_channels": 256, **_LONG},
    **{f"swin_{name}": _SWIN for name in ("tiny", "small", "base")},
    **{f"swin_spm_{name}": _SWIN for name in ("tiny", "small", "base")},
    **{f"mit_b{number}": _WIDE for number in range(2, 6)},
    **{f"mit_spm_b{number}": _WIDE for number in range(2, 6)},
}
