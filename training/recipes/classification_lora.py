"""LoRA: low-rank matrices in every block and the head are trained, everything else is frozen.

Command:  keras-spm train classification_lora --data photos
          The data are given as for `classification_folder`. Afterwards, `save_lora_weights` of the
          best model writes the trained weights alone.
Hardware: 2 CPU cores for a few hundred photos, an accelerator for more
Result:   depends on the photos and on the weights; training/fine_tuning.csv compares it with full
          fine-tuning and with the linear probe on handwritten digits
"""

# Model
preset: str = "pvt_v2_b1"
load_weights: bool = True
lora_rank: int = 8
lora_alpha: float = 16.0
drop_path_rate: float = 0.1

# Data
dataset: str = "auto"
data_folder: str = ""
invalid: str = "drop"
validation_share: float = 0.2
class_weights: str = "none"
image_size: int = 224
crop_pct: float = 0.875

# Augmentation
crop_scale: float = 0.3
flip: float = 0.5
randaugment_magnitude: float = 5.0
label_smoothing: float = 0.1

# Optimization
epochs: int = 20
batch_size: int = 32
learning_rate: float = 2e-3
schedule: str = "cosine_by_step"
warmup_epochs: int = 2
weight_decay: float = 0.05
global_clipnorm: float = 5.0
ema_decay: float = 0.0
seed: int = 0
