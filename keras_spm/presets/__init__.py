"""Presets: from a name, a folder or an address to a backbone or a task, and back."""

from keras_spm.presets.loading import load_preset
from keras_spm.presets.saving import save_preset
from keras_spm.presets.saving import upload_preset
from keras_spm.presets.sources import list_presets
from keras_spm.registry import PRESET_FUNCTIONS

PRESET_FUNCTIONS.register("load", load_preset)
PRESET_FUNCTIONS.register("save", save_preset)

__all__ = ["list_presets", "upload_preset"]
