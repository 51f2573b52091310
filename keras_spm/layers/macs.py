"""Counts the MACs of a forward pass from shapes alone."""

import keras


def macs(layer, input_shape):
    """Returns the MACs that `layer` spends on one example.

    Counted are products that meet in a sum: convolutions, linear maps and both
    products of attention. Norms, activations, pooling and additions are not, as is
    the field's custom. Layers of this package count themselves with a method of this
    name; Keras's own dense and convolution layers are counted here.

    Args:
        layer: a built layer or model.
        input_shape: (batch, height, width, channels); the batch is not looked at.

    Raises:
        TypeError: for a layer whose cost is not known.
    """
    if hasattr(layer, "macs"):
        return layer.macs(input_shape)
    if isinstance(layer, keras.Sequential):
        total = 0
        for part in layer.layers:
            total += macs(part, input_shape)
            input_shape = part.compute_output_shape(input_shape)
        return total
    if isinstance(layer, keras.layers.Dense):
        return _positions(input_shape) * input_shape[-1] * layer.units
    if isinstance(layer, keras.layers.Conv2D):
        taps = layer.kernel_size[0] * layer.kernel_size[1] * input_shape[-1] // layer.groups
        return _positions(layer.compute_output_shape(input_shape)) * taps * layer.filters
    raise TypeError(
        f"The MACs of {type(layer).__name__} are not known: give it a method `macs(input_shape)`."
    )


def _positions(shape):
    positions = 1
    for size in shape[1:-1]:
        positions *= size
    return positions
