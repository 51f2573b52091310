"""Handwritten digits, from random weights.

Command:  keras-spm train classification_digits
Hardware: 2 CPU cores, float32; about 2 minutes on each backend (JAX 3)
Result:   in training/results.csv. Rounding differs between processors: seed 0 on JAX differs by
          two of the 360 test images between an Intel Xeon and an AMD EPYC
"""

# Model
preset: str = "pvt_v2_spm_mini"
drop_path_rate: float = 0.05

# Data
dataset: str = "digits"
rotation: float = 12.0
zoom: float = 0.1
translation: float = 0.08

# Optimization
epochs: int = 40
batch_size: int = 64
learning_rate: float = 2e-3
warmup_epochs: int = 3
weight_decay: float = 0.05
seed: int = 0
