"""The version, also written into saved presets."""

__version__ = "0.1.0"
