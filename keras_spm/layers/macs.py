"""Counts the MACs of a forward pass from shapes alone."""

import math
import numbers

import keras

from keras_spm.arguments import argument_error
from keras_spm.layers.composite import SequentialLayer, check_layer
from keras_spm.layers.position_embedding import PositionEmbedding
from keras_spm.types import Shape

_FREE = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    PositionEmbedding,
)
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
# These have no weights but multiply their inputs.
_PRODUCTS = (keras.layers.Attention, keras.layers.AdditiveAttention, keras.layers.Dot)


def macs(layer: keras.layers.Layer, input_shape: Shape) -> int:
    """Returns the multiply-accumulate operations of `layer` for one example.

    Convolutions, dense layers and both products of attention count; norms and layers
    without weights do not. Other layers count themselves by a method `macs(input_shape)`.

    Args:
        layer: a built layer or model.
        input_shape: (batch, height, width, channels). The batch is ignored.

    Raises:
        ValueError: if a size is unknown, or the layer is not built or built for other inputs.
        TypeError: if the cost of the layer is unknown.
    """
    check_layer("layer", layer)
    if hasattr(layer, "macs") or isinstance(layer, (keras.layers.Dense, *_CONVOLUTIONS)):
        _check_shape(layer, input_shape)
    if hasattr(layer, "macs"):
        return layer.macs(input_shape)
    if isinstance(layer, (keras.Sequential, SequentialLayer)):
        total = 0
        for child in layer.layers:
            total += macs(child, input_shape)
            input_shape = child.compute_output_shape(input_shape)
        return total
    if isinstance(layer, keras.layers.Dense):
        return math.prod(input_shape[1:]) * layer.units
    if isinstance(layer, _CONVOLUTIONS):
        outputs = math.prod(layer.compute_output_shape(input_shape)[1:])
        # Kernels are (height, width, input channels of one output, outputs); depthwise ones
        # (height, width, input channels, outputs of one input).
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        return outputs * math.prod(layer.kernel.shape[: 2 if depthwise else 3])
    has_no_weights = layer.built and not layer.weights and not isinstance(layer, _PRODUCTS)
    if has_no_weights or isinstance(layer, _FREE):
        return 0
    raise TypeError(
        f"The MACs of {type(layer).__name__} are unknown: define a method `macs(input_shape)`."
    )


def _check_shape(layer, shape):
    if not layer.built:
        raise argument_error("layer", "built", layer)
    if isinstance(shape, dict):  # Of pyramid levels, whose layers check them.
        return
    sizes = tuple(shape)[1:]
    if not sizes or not all(isinstance(size, numbers.Integral) and size > 0 for size in sizes):
        raise argument_error("input_shape", "of known sizes after the batch", shape)
    # Models have a list of specifications.
    spec = layer.input_spec if isinstance(layer.input_spec, keras.layers.InputSpec) else None
    if spec is not None and spec.ndim not in (None, len(shape)):
        raise argument_error("input_shape", f"of length {spec.ndim}", shape)
    if spec is not None and spec.axes.get(-1, sizes[-1]) != sizes[-1]:
        raise argument_error("input_shape", f"of {spec.axes[-1]} channels", shape)
