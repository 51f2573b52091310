"""What is to be exported."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.export.files import as_strings
from keras_spm.export.served import ServedModel

# Height and width of the smallest image of all backbones.
SMALLEST = 32


def data_format_of(model: keras.Model) -> str | None:
    """Returns the data format of the images of a task or backbone, if it has one."""
    return getattr(getattr(model, "backbone", model), "data_format", None)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be exported, whatever the format.

    Attributes:
        served: the function of images.
        spec: shape and dtype of the images; `None` for a size that may differ.
        about: metadata, values that JSON can hold.
        options: of the format.
        calibration: batches of images for int8, or `None`.
    """

    served: ServedModel
    spec: keras.InputSpec
    about: dict[str, Any]
    options: dict[str, Any]
    calibration: Sequence[np.ndarray] | None = None

    @property
    def is_channels_first(self) -> bool:
        return self.about["input"]["data_format"] == "channels_first"

    @property
    def size_names(self) -> tuple[str, str, str, str]:
        """The names of the sizes of a batch, in their order."""
        if self.is_channels_first:
            return "batch", "channels", "height", "width"
        return "batch", "height", "width", "channels"

    def write_by_keras(self, path: pathlib.Path, name: str, options: dict[str, Any]) -> None:
        """Writes the file by Keras's `export`, which for a task would be that of the task."""
        keras.Model.export(
            self.served,
            str(path),
            format=name,
            verbose=False,
            input_signature=[self.spec],
            **options,
        )

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """The shape of images to trace with; sizes that may differ are distinct numbers."""
        batch, height, width = 2, 5 * SMALLEST, 9 * SMALLEST  # No level has a size of 1.
        sample = (batch, 0, height, width) if self.is_channels_first else (batch, height, width, 0)
        pairs = zip(self.spec.shape, sample, strict=True)
        return tuple(used if size is None else size for size, used in pairs)

    @property
    def unknown_sizes(self) -> dict[str, int]:
        """{"height": axis, "width": axis}, where they may differ."""
        axes = {name: self.size_names.index(name) for name in ("height", "width")}
        return {name: axis for name, axis in axes.items() if self.spec.shape[axis] is None}

    @property
    def calibration_batches(self) -> list[np.ndarray]:
        """The batches of `calibration` in the dtype of the model's images."""
        return [each.astype(self.spec.dtype) for each in self.calibration]

    @property
    def metadata_strings(self) -> dict[str, str]:
        return as_strings(self.metadata)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of the model; complete after the model was traced."""
        return {**self.about, "outputs": list(self.served.names)}
