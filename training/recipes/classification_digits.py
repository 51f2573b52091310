"""Handwritten digits, from random weights."""

# Model
preset: str = "pvt_v2_spm_mini"
drop_path_rate: float = 0.05

# Data
dataset: str = "digits"
rotation: float = 12.0
zoom: float = 0.1
translation: float = 0.08

# Optimisation
epochs: int = 40
batch_size: int = 64
learning_rate: float = 2e-3
warmup_epochs: int = 3
weight_decay: float = 0.05
seed: int = 0
