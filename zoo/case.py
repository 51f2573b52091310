"""A benchmark case: the model of one library on one backend, with its input shape."""

import dataclasses
import os
from typing import Any

import numpy as np

NUM_CLASSES = 1000
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What runs an exported file.

    Attributes:
        format: name of the file's format.
        suffix: of the file.
        written_by: Keras's backend that writes it.
    """

    format: str
    suffix: str
    written_by: str


RUNTIMES = {
    "onnxruntime": Runtime("onnx", ".onnx", "torch"),
    "openvino": Runtime("openvino", ".xml", "torch"),
    "litert": Runtime("litert", ".tflite", "tensorflow"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model to benchmark.

    Attributes:
        library: a key of `worker.LIBRARIES`.
        model: `"merging_64_128"`, a Stepwise Patch Merging layer from 64 to 128 channels,
            followed by global average pooling; or the long name of a backbone preset, with
            a classifier of 1,000 classes. A prefix selects another model: `"segmenter:"`
            and `"detector:"` a dense task, `"backbone:"` the backbone alone, `"fused:"` the
            classifier after `keras_spm.fuse`, `"checkpointed:"` the classifier with gradient
            checkpointing.
        backend: `"torch"`, `"jax"` or `"tensorflow"`, always `"torch"` for PyTorch libraries; or a
            key of `RUNTIMES`, which runs an exported file.
        compiled: whether PyTorch compiles the model; Keras's default is used elsewhere.
        dtype: `"float32"`, `"bfloat16"` for mixed precision, or `"int8"` of an exported file.
        batch: batch size.
        size: height and width of the input.
    """

    library: str
    model: str
    backend: str = "torch"
    compiled: bool = False
    dtype: str = "float32"
    batch: int = 8
    size: int = 224

    @property
    def channels(self) -> tuple[int, ...] | None:
        """(input channels, output channels) of a merging layer, `None` for a network."""
        kind, *channels = self.model.split("_")
        return tuple(map(int, channels)) if kind == "merging" else None

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, height, width, channels)."""
        return (self.batch, self.size, self.size, self.channels[0] if self.channels else 3)

    def variant(self) -> tuple[str, dict[str, Any]]:
        """Returns the family and the constructor arguments of this model, for other libraries.

        Raises:
            UnavailableError: if the model is not an original PVT v2 or Swin.
        """
        import keras_spm

        for family in (keras_spm.PVTv2, keras_spm.Swin):
            name = self.model.removeprefix(family.preset_prefix)
            if name != self.model and name in family.presets:
                return family.__name__, family.presets[name]
        raise UnavailableError(f"{self.library} does not provide {self.model}")

    def inputs(self) -> np.ndarray:
        """Returns random pixels or features, (batch, height, width, channels) float32."""
        generator = np.random.default_rng(0)
        if self.channels:
            return generator.normal(size=self.input_shape).astype("float32")
        return generator.integers(0, 256, self.input_shape).astype("float32")

    def __str__(self) -> str:
        compiled = ", compiled" if self.compiled else ""
        return f"{self.library} {self.model} ({self.backend}{compiled})"


class UnavailableError(Exception):
    """The library does not provide the model."""


def cores() -> int:
    """Returns the number of CPU cores of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
