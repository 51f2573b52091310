"""Zeros around arrays, formulated per framework.

Keras gives each padding a name, which PyTorch's compiler takes for a change that it must not
overlook: it breaks its graph at every layer that follows.
"""

import keras
from keras import ops


def pad(array, widths):
    """Surrounds an array with zeros.

    Args:
        array: of any shape.
        widths: (before, after) for each axis, ints or scalar tensors.

    Returns:
        The array, longer by `before + after` along each axis.
    """
    if keras.config.backend() == "torch":
        import torch

        from_the_last = [width for axis in reversed(widths) for width in axis]
        return torch.nn.functional.pad(array, from_the_last)
    return ops.pad(array, widths)
