"""Presets: from a name, a folder or an address to a backbone or a task, and back."""

from keras_spm.presets.loading import load_preset
from keras_spm.presets.saving import save_preset
from keras_spm.presets.saving import upload_preset
from keras_spm.presets.sources import list_presets
from keras_spm.registry import register_loader
from keras_spm.registry import register_saver

register_loader(load_preset)
register_saver(save_preset)

__all__ = ["list_presets", "upload_preset"]
