"""What `benchmark.py` times: this library, and others that compute the same."""

import dataclasses

import numpy as np

CLASSES = 1000
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


@dataclasses.dataclass(frozen=True)
class Contender:
    """Whose code is timed, on what.

    Attributes:
        library: a key of `worker.LIBRARIES`.
        model: `"merging_64_128"`, a Stepwise Patch Merging layer from 64 to 128 channels,
            under a mean over positions; or the long name of a backbone preset, which gets a
            classifier of 1,000 classes, or, after `"segmenter:"` or `"detector:"`, that
            head, or, after `"backbone:"`, none. `"fused:"` and `"checkpointed:"` are the
            classifier after `keras_spm.fuse`, and with gradient checkpointing.
        backend: `"torch"`, `"jax"` or `"tensorflow"`; libraries of PyTorch run on the first.
        compiled: whether PyTorch compiles; elsewhere Keras's own choice counts.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        batch: maps or images.
        size: their height and width.
    """

    library: str
    model: str
    backend: str = "torch"
    compiled: bool = False
    dtype: str = "float32"
    batch: int = 8
    size: int = 224

    @property
    def channels(self):
        """(channels in, channels out) of a merging layer, None for a network."""
        kind, *channels = self.model.split("_")
        return tuple(map(int, channels)) if kind == "merging" else None

    @property
    def input_shape(self):
        return (self.batch, self.size, self.size, self.channels[0] if self.channels else 3)

    def figures(self):
        """Returns (family, {argument: value}): what others' constructors are asked for.

        Raises:
            UnavailableError: where the model is not one of a family's own variants.
        """
        import keras_spm

        for family in (keras_spm.PVTv2, keras_spm.Swin):
            variant = self.model.removeprefix(family.preset_prefix)
            if variant != self.model and variant in family.presets:
                return family.__name__, family.presets[variant]
        raise UnavailableError(f"{self.library} is not known to have {self.model}")

    def inputs(self):
        """Returns random pixels or features."""
        generator = np.random.default_rng(0)
        if self.channels:
            return generator.normal(size=self.input_shape).astype("float32")
        return generator.integers(0, 256, self.input_shape).astype("float32")

    def __str__(self):
        compiled = ", compiled" if self.compiled else ""
        return f"{self.library} {self.model} ({self.backend}{compiled})"


class UnavailableError(Exception):
    """A contender that cannot be built here."""
