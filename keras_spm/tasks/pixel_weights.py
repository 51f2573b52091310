"""Weights of pixels in the loss, from weights of images and of classes."""

from collections.abc import Sequence

from keras import ops

from keras_spm.arguments import check_integer, check_number
from keras_spm.metrics.segmentation import without_channel
from keras_spm.types import Tensor


def class_weights(
    class_weight: dict[int, float] | None, num_classes: int
) -> tuple[float, ...] | None:
    """Returns the weight of each class, 1 for those that are not given; `None` for `None`.

    Raises:
        ValueError: for an unknown class or a negative weight.
    """
    if class_weight is None:
        return None
    weights = [1.0] * num_classes
    for label, weight in class_weight.items():
        check_integer("class_weight", label, 0, num_classes - 1)
        weights[label] = check_number("class_weight", weight)
    return tuple(weights)


def weigh_classes(sample_weight: Tensor | None, labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Returns weights of pixels, (batch, height, width), times those of their classes."""
    # Labels that are ignored have no loss; any weight will do.
    labels = ops.clip(ops.cast(without_channel(labels), "int32"), 0, len(weights) - 1)
    weights = ops.take(ops.convert_to_tensor(weights, "float32"), labels)
    return weights if sample_weight is None else weights * sample_weight


def weigh_images(sample_weight: Tensor | None, logits: Tensor) -> Tensor | None:
    """Returns weights of images, (batch,), as weights of their pixels; others as they are."""
    if sample_weight is None or len(sample_weight.shape) != 1:
        return sample_weight
    weights = ops.cast(ops.reshape(sample_weight, (-1, 1, 1)), "float32")
    # A new tensor: Keras multiplies it in place on PyTorch.
    return weights * ops.ones_like(logits[..., 0], dtype="float32")
