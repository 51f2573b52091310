"""Where do two implementations part? The question of everyone who ports a network."""

import collections.abc
import dataclasses

import keras
import numpy as np

# Rounding of float32 over a network, in units of a tensor's largest value.
TOLERANCE = 1e-5

IMAGES = "images"
OUTPUTS = ("P2", "P3", "P4", "P5", "pooled", "logits")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one output lies from the reference.

    Attributes:
        name: of the output.
        largest: the largest absolute difference.
        scale: the largest absolute value of the reference.
        tolerance: what `largest` may be, in units of `scale`.
    """

    name: str
    largest: float
    scale: float
    tolerance: float

    @property
    def allclose(self):
        """Whether the difference is within the tolerance; NaN is not."""
        return self.largest <= self.tolerance * self.scale

    def __str__(self):
        verdict = "agrees" if self.allclose else "PARTS"
        return f"{self.name:>6}  {self.largest:10.3e}  of {self.scale:10.3e}  {verdict}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences from a reference, in the order in which a network computes.

    Attributes:
        differences: a `Difference` for each output of the reference.
    """

    differences: tuple

    @property
    def first_mismatch(self):
        """Name of the first output that does not agree, or None."""
        return next((each.name for each in self.differences if not each.allclose), None)

    def __str__(self):
        verdict = f"parts at {self.first_mismatch}" if self.first_mismatch else "agrees throughout"
        return "\n".join([*map(str, self.differences), verdict])


def compare(model, reference_outputs, tolerance=TOLERANCE):
    """Compares a model, stage by stage, with what another implementation computed.

    Args:
        model: a backbone, or a task on one.
        reference_outputs: {name: array}. `"images"` is what the reference was given,
            already normalized; the rest are its results, any of `"P2"` to `"P5"` (the
            stage maps, before or after a stage's norm as in `pyramid_outputs`),
            `"pooled"` and `"logits"`. Images and maps are channels_last or
            channels_first, maps also (batch, positions, channels); arrays are NumPy's
            or PyTorch's.
        tolerance: float, the difference that still agrees, in units of the reference's
            largest absolute value.

    Returns:
        A `Comparison`; print it to read where the two part and by how much.

    Raises:
        ValueError: for an unknown name, missing images, logits asked of a model without
            them, or an array whose shape cannot be the model's.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("b0", load_weights=False)
    >>> images = np.random.rand(1, 64, 64, 3).astype("float32")
    >>> own = keras.Model(backbone.input, backbone.pyramid_outputs).predict(images, verbose=0)
    >>> keras_spm.compare(backbone, {"images": images, "P2": own["P2"] + 1}).first_mismatch
    'P2'
    """
    backbone = getattr(model, "backbone", model)
    reference = {name: _to_numpy(value) for name, value in _checked(reference_outputs).items()}
    images = _images(reference.pop(IMAGES), backbone)
    wanted = {**backbone.pyramid_outputs, "pooled": backbone.pooled_output}
    if "logits" in reference:
        if not hasattr(model, "backbone"):
            raise ValueError("`reference_outputs` has 'logits', the model is a bare backbone.")
        wanted["logits"] = model.get_layer("head")(backbone.pooled_output)
    wanted = {name: wanted[name] for name in OUTPUTS if name in reference}
    outputs = keras.Model(backbone.input, wanted).predict(images, verbose=0)
    return Comparison(
        tuple(
            _difference(name, outputs[name], reference[name], backbone.data_format, tolerance)
            for name in wanted
        )
    )


def _checked(reference_outputs):
    if not isinstance(reference_outputs, collections.abc.Mapping):
        raise ValueError(
            "`reference_outputs` must map names to arrays. "
            f"Received: {type(reference_outputs).__name__}"
        )
    if unknown := [name for name in reference_outputs if name not in (IMAGES, *OUTPUTS)]:
        raise ValueError(
            f"`reference_outputs` may have {', '.join((IMAGES, *OUTPUTS))}. Received: {unknown}"
        )
    if IMAGES not in reference_outputs or len(reference_outputs) < 2:
        raise ValueError(
            f"`reference_outputs` must have {IMAGES!r} and at least one output. "
            f"Received: {list(reference_outputs)}"
        )
    return reference_outputs


def _to_numpy(value):
    if hasattr(value, "detach"):  # A torch tensor, whatever the backend.
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, "float32")


def _images(images, backbone):
    """Images in the backbone's data format."""
    channels_first = backbone.data_format == "channels_first"
    channels = backbone.image_shape[0 if channels_first else -1]
    if images.ndim != 4 or channels not in (images.shape[1], images.shape[3]):
        raise ValueError(
            f"{IMAGES!r} must be a batch of images with {channels} channels. "
            f"Received: shape {images.shape}"
        )
    if images.shape[1 if channels_first else 3] == channels:
        return images
    return images.transpose(0, 2, 3, 1) if not channels_first else images.transpose(0, 3, 1, 2)


def _difference(name, output, reference, data_format, tolerance):
    if output.ndim == 4 and data_format == "channels_first":
        output = output.transpose(0, 2, 3, 1)
    shape = reference.shape
    if output.ndim == 4 and reference.shape != output.shape:
        batch, height, width, channels = output.shape
        if reference.shape == (batch, channels, height, width):
            reference = reference.transpose(0, 2, 3, 1)
        elif reference.shape == (batch, height * width, channels):
            reference = reference.reshape(output.shape)
    if reference.shape != output.shape:
        raise ValueError(
            f"{name!r} of the reference has shape {shape}, the model's is {output.shape} "
            "(channels_last)."
        )
    largest = np.abs(output.astype("float32") - reference).max()
    return Difference(name, float(largest), float(np.abs(reference).max()), tolerance)
