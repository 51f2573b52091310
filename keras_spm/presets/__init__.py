"""Presets: backbones and tasks from a name, a folder or the hub, and saving them."""

from keras_spm.presets.loading import load_preset
from keras_spm.presets.lora import load_lora, save_lora
from keras_spm.presets.saving import save_preset, upload_preset
from keras_spm.presets.sources import list_presets
from keras_spm.registry import PRESET_FUNCTIONS

PRESET_FUNCTIONS.register("load", load_preset)
PRESET_FUNCTIONS.register("save", save_preset)
PRESET_FUNCTIONS.register("load_lora", load_lora)
PRESET_FUNCTIONS.register("save_lora", save_lora)

__all__ = ["list_presets", "upload_preset"]
