"""Finds the first stage at which a model differs from a reference implementation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import argument_error, check_number

# Rounding of float32 over a network, relative to a tensor's largest absolute value.
TOLERANCE = 1e-5

IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of one output from the reference.

    Attributes:
        name: str, of the output.
        largest: float, largest absolute difference.
        scale: float, largest absolute value of the reference.
        tolerance: float, relative to `scale`.
    """

    name: str
    largest: float
    scale: float
    tolerance: float

    @property
    def allclose(self) -> bool:
        """Whether the difference is within the tolerance; false for NaN."""
        return self.largest <= self.tolerance * self.scale

    def __str__(self) -> str:
        verdict = "matches" if self.allclose else "MISMATCH"
        return f"{self.name:>6}  {self.largest:10.3e}  of {self.scale:10.3e}  {verdict}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences from a reference, in the order of computation.

    Attributes:
        differences: a `Difference` for each output of the reference.
    """

    differences: tuple[Difference, ...]

    @property
    def first_mismatch(self) -> str | None:
        """Name of the first output that does not match, or `None`."""
        return next((each.name for each in self.differences if not each.allclose), None)

    def __str__(self) -> str:
        name = self.first_mismatch
        verdict = "all outputs match" if name is None else f"first mismatch at {name}"
        return "\n".join([*map(str, self.differences), verdict])


def compare(
    model: keras.Model, reference_outputs: Mapping[str, Any], tolerance: float = TOLERANCE
) -> Comparison:
    """Compares a model, stage by stage, with the outputs of another implementation.

    Args:
        model: a backbone, or an `ImageClassifier`.
        reference_outputs: {name: NumPy array or torch tensor}. `"images"` is the normalized
            input of the reference. The others are its outputs, any of `"P2"` to `"P5"` (the
            levels of `pyramid_outputs`), `"pooled"` and `"logits"`. Images and maps are
            channels_last or channels_first; maps can also be (batch, positions, channels). Maps
            whose shape fits both are in the format of the images.
        tolerance: float, relative to the largest absolute value of the reference.

    Returns:
        A `Comparison`; printed, it lists all differences and the first mismatch.

    Raises:
        ValueError: for an unknown name, missing images, logits for a model without a head,
            or a shape that does not match the model's.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("b0", load_weights=False)
    >>> images = np.random.rand(1, 64, 64, 3).astype("float32")
    >>> maps = keras.Model(backbone.input, backbone.pyramid_outputs).predict(images, verbose=0)
    >>> keras_spm.compare(backbone, {"images": images, "P2": maps["P2"] + 1}).first_mismatch
    'P2'
    """
    check_number("tolerance", tolerance)
    backbone = getattr(model, "backbone", model)
    if not hasattr(backbone, "pooled_output"):
        raise argument_error("model", "a backbone or an ImageClassifier", model)
    names = (*backbone.pyramid_outputs, "pooled", "logits")
    _check_names(reference_outputs, names)
    channels_first = backbone.data_format == "channels_first"
    reference = {name: _to_numpy(value) for name, value in reference_outputs.items()}
    given = reference.pop(IMAGES)
    images = _channels_last_images(given, backbone.image_shape, channels_first)
    is_channels_first = given.shape != images.shape
    outputs = {**backbone.pyramid_outputs, "pooled": backbone.pooled_output}
    if "logits" in reference:
        if "head" not in [layer.name for layer in model.layers]:
            raise ValueError(
                f"A {type(model).__name__} has no logits. Received: 'logits' in `reference_outputs`"
            )
        outputs["logits"] = model.get_layer("head")(backbone.pooled_output)
    outputs = {name: outputs[name] for name in names if name in reference}
    if channels_first:
        images = images.transpose(0, 3, 1, 2)
    values = keras.Model(backbone.input, outputs).predict(images, verbose=0)
    differences = []
    for name in outputs:
        value = values[name]
        if value.ndim == 4 and channels_first:
            value = value.transpose(0, 2, 3, 1)
        expected = _in_shape(name, reference[name], value.shape, is_channels_first)
        largest = np.abs(value.astype("float32") - expected).max()
        scale = np.abs(expected).max()
        differences.append(Difference(name, float(largest), float(scale), tolerance))
    return Comparison(tuple(differences))


def _check_names(reference_outputs, outputs):
    if not isinstance(reference_outputs, Mapping):
        raise ValueError(
            "`reference_outputs` must map names to arrays. "
            f"Received: {type(reference_outputs).__name__}"
        )
    names = set(reference_outputs)
    if IMAGES not in names or len(names) < 2 or not names <= {IMAGES, *outputs}:
        raise ValueError(
            f"`reference_outputs` must have {IMAGES!r} and at least one of {', '.join(outputs)}. "
            f"Received: {list(reference_outputs)}"
        )


def _to_numpy(value):
    if hasattr(value, "detach"):  # A torch tensor, on any backend.
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, "float32")


def _channels_last_images(images, image_shape, channels_first):
    channels = image_shape[0 if channels_first else -1]
    is_batch = images.ndim == 4 and len(images) > 0
    if is_batch and images.shape[3] == channels:
        return images
    if is_batch and images.shape[1] == channels:
        return images.transpose(0, 2, 3, 1)
    raise ValueError(
        f"{IMAGES!r} must be a batch of images with {channels} channels. "
        f"Received: shape {images.shape}"
    )


def _in_shape(name, reference, shape, is_channels_first):
    """The reference in the shape of the model's output, which is channels_last."""
    if len(shape) == 4:
        batch, height, width, channels = shape
        if reference.shape == (batch, height * width, channels):
            return reference.reshape(shape)
        transposed = (batch, channels, height, width)
        if reference.shape == transposed and (is_channels_first or transposed != shape):
            return reference.transpose(0, 2, 3, 1)
    if reference.shape != shape:
        raise ValueError(
            f"{name!r} must have the shape of the model's output, {shape} (channels_last). "
            f"Received: shape {reference.shape}"
        )
    return reference
