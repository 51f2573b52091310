"""Presets: from a name to a backbone or a task."""

from keras_spm.backbones import PVT
from keras_spm.backbones import PVTSPM
from keras_spm.backbones import PVTv2
from keras_spm.backbones import PVTv2SPM
from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones import Swin
from keras_spm.backbones import SwinSPM
from keras_spm.registry import lookup
from keras_spm.registry import register_loader

_BACKBONES = (PVT, PVTSPM, PVTv2, PVTv2SPM, Swin, SwinSPM)


def list_presets():
    """Returns the long names of all presets, as tasks take them."""
    return list(_long_names())


@register_loader
def _load_preset(cls, name, load_weights, arguments):
    if not issubclass(cls, PyramidBackbone):
        return cls(_load_backbone(PyramidBackbone, name, load_weights, {}), **arguments)
    return _load_backbone(cls, name, load_weights, arguments)


def _load_backbone(cls, name, load_weights, overrides):
    if cls is PyramidBackbone:
        cls = lookup("preset", name, _long_names())
    short_name = str(name).removeprefix(cls.preset_prefix)
    variant = lookup(f"{cls.__name__} preset", short_name, cls.presets)
    if load_weights:
        raise ValueError(
            f"No weights are published for {cls.__name__} {short_name!r} yet. Pass "
            "`load_weights=False` for random weights; `keras_spm.load_torch_weights` then "
            "loads a PyTorch checkpoint."
        )
    return cls(**{**variant, **overrides})


def _long_names():
    return {f"{cls.preset_prefix}{name}": cls for cls in _BACKBONES for name in cls.presets}
