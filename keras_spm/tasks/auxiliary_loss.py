"""Auxiliary logits of a decoder, whose loss is added in training."""

from collections.abc import Callable

import keras

from keras_spm.layers.resizing import ResizeLike
from keras_spm.types import Tensor

_LOGITS, _AUXILIARY = "logits", "auxiliary_logits"


def connect_auxiliary(
    decoder: keras.layers.Layer,
    maps: dict[str, keras.KerasTensor],
    logits: keras.KerasTensor,
    images: keras.KerasTensor,
    data_format: str,
) -> Callable[[Tensor], dict[str, Tensor]] | None:
    """Returns what a task computes in training: a function of images.

    Its results are the logits and the logits of the decoder's `auxiliary_head`, both of the
    images' size. Returns `None` for a decoder without an auxiliary head.

    Args:
        decoder: built layer. `auxiliary_head`, if it has one, is a layer with the same inputs.
        maps: symbolic inputs of the decoder.
        logits: symbolic logits of the images' size.
        images: symbolic images.
        data_format: of the images.
    """
    head = getattr(decoder, "auxiliary_head", None)
    if head is None:
        return None
    upsampling = ResizeLike(data_format, dtype="float32", name="auxiliary_upsampling")
    outputs = {_LOGITS: logits, _AUXILIARY: upsampling([head(maps), images])}
    model = keras.Model(images, outputs)
    # Not the model itself: as an attribute of a task, its layers would be tracked twice.
    return lambda images: model.call(images, training=True)


def split_logits(outputs: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Returns (logits, auxiliary logits), the latter `None` if there are none."""
    if isinstance(outputs, dict):
        return outputs[_LOGITS], outputs[_AUXILIARY]
    return outputs, None
