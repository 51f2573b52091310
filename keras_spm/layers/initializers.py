"""The initialisation that every family here shares (that of the PVT reference)."""

import keras


def convolution_initializer():
    """Normal with standard deviation sqrt(2 / (kernel area * output channels / groups)).

    Keras counts the fan-out of a depthwise kernel (k, k, channels, 1) as k * k, which
    is that formula for as many groups as channels.
    """
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def linear_initializer():
    """Normal with standard deviation 0.02."""
    return keras.initializers.RandomNormal(stddev=0.02)
